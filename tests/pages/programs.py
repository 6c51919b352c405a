"""The tables that are made from what the programs of tests/ have measured."""

from collections.abc import Callable, Iterable
from typing import Any

from tests.benchmarks.quality import GOLD, comparison, median_seconds
from tests.benchmarks.workloads import COMPARISONS
from tests.pages.measured import Entries, Missing, read, where
from tests.pages.results import row

# --- the benchmark ----------------------------------------------------------------------------------------------------

# names of its rows without the numerics: what they measure
SUMMARY = {
    "ppo-tiny-1": "PPO, tiny, 1 epoch",
    "ppo-tiny-1-eos": "PPO, tiny, 1 epoch, early eos",
    "ppo-tiny-4": "PPO, tiny, 4 epochs",
    "ppo-tiny-4-eos": "PPO, tiny, 4 epochs, early eos",
    "ppo-tiny-1-trunk": "PPO, tiny, head on the trunk †",
    "ppo-small-1": "PPO, small",
    "ppo-small-1-eos": "PPO, small, early eos",
    "ppo-small-1-trunk": "PPO, small, head on the trunk †",
    "ppo-gpt2-1": "PPO, gpt2",
    "ppo-gpt2-1-eos": "PPO, gpt2, early eos",
    "ppo-tiny-k4": "PPO, tiny, 4 responses to a prompt",
    "ppo-tiny-k4-rloo": "the same without a value model †",
    "rloo-tiny": "RLOO, tiny",
    "decode-tiny": "decoding, tiny",
    "decode-small-eos": "decoding, small, early eos",
    "pretrain-tiny": "pretraining, tiny",
    "sft-tiny": "SFT, tiny",
    "reward-tiny": "reward model, tiny",
    "memory-gpt2": "memory of PPO, gpt2",
    "memory-gpt2-trunk": "memory, head on the trunk †",
    "memory-gpt2-rloo": "memory, no value model †",
}
ELSEWHERE = ("without-", "with-", "gpu-", "lora-", "memory-")  # rows that are not in the table of speed


def chosen(name: str, fits: Callable[[str], bool]) -> Entries:
    """The entries of a file whose names fit. Raises Missing if there are none."""
    found = {key: one for key, one in read(name).items() if fits(key)}
    if not found:
        raise Missing(name)
    return found


def table(entries: Entries, heads: Iterable[str], cells: Callable[[str, Any], list[list[str]]]) -> str:
    """Where it was measured, and a table with the rows that `cells` makes of each entry's name and numbers."""
    heads = list(heads)
    lines = [row(line) for name, one in entries.items() for line in cells(name, one["numbers"])]
    return "\n".join([f"{where(entries)}.", "", row(heads), "|---" * len(heads) + "|", *lines])


def ratio(numbers: dict[str, Any]) -> str:
    """theirs / ours, bold if it reaches the target."""
    text = f"{numbers['ratio']:.2f}"
    return f"**{text}**" if numbers["target"] and numbers["ratio"] >= numbers["target"] else text


def with_range(numbers: dict[str, Any]) -> str:
    return f"{ratio(numbers)} ({numbers['ratio_min']:.2f}–{numbers['ratio_max']:.2f})"


def target(numbers: dict[str, Any]) -> str:
    return f"{numbers['target']:g}" if numbers["target"] else "–"


def peaks(numbers: dict[str, Any]) -> str:
    return " / ".join(f"{numbers[f'{side}_detail']['memory_mb']:,.0f}" for side in ("ours", "theirs"))


def bench() -> str:
    """Every row of the benchmark that compares times."""

    def cells(name: str, numbers: Any) -> list[list[str]]:
        mark = "" if numbers["like_for_like"] else " †"
        return [[name + mark, with_range(numbers), target(numbers), f"{numbers['ours']:.2f}", peaks(numbers)]]

    entries = chosen("bench", lambda name: not name.startswith(ELSEWHERE))
    peak = next(iter(entries.values()))["numbers"]["peak_gflops"]
    speed = f"The peak was {peak['fp32']:.0f} GFLOP/s in fp32 and {peak['bf16']:.0f} in bf16.\n\n"
    return speed + table(entries, ["row", "theirs / ours", "target", "CPU s, ours", "peak MB"], cells)


def bench_memory() -> str:
    """The rows of the benchmark that compare memory, with the ratio of wall time of the same steps."""

    def cells(name: str, numbers: Any) -> list[list[str]]:
        mark = "" if numbers["like_for_like"] else " †"
        return [[name + mark, ratio(numbers), target(numbers), peaks(numbers), f"{numbers['wall_ratio']:.2f}"]]

    entries = chosen("bench", lambda name: name.startswith("memory-gpt2"))
    return table(entries, ["row", "theirs / ours", "target", "peak MB", "time"], cells)


def bench_summary() -> str:
    """A row for each kind of work: its ratios in fp32 and in bf16 beside their targets."""
    entries = chosen("bench", lambda name: name.rpartition("-")[0] in SUMMARY)
    lines = [f"{where(entries)}.", "", row(["", "fp32", "target", "bf16", "target"]), "|---|---|---|---|---|"]
    for name, work in SUMMARY.items():
        sides = [entries.get(f"{name}-{numerics}", {}).get("numbers") for numerics in ("fp32", "bf16")]
        lines.append(
            row([work, *(cell for side in sides for cell in ((ratio(side), target(side)) if side else ("", "")))])
        )
    return "\n".join(lines)


def bench_ablation() -> str:
    """Ours without an optimisation against ours with it."""

    def cells(name: str, numbers: Any) -> list[list[str]]:
        digits = 0 if numbers["unit"].startswith("MB") else 2
        sides = [f"{numbers[side]:,.{digits}f}" for side in ("ours", "theirs")]
        unit = numbers["unit"].partition(",")[0]
        return [[f"`{name.removeprefix('without-')}`", measured_in(name), with_range(numbers), *sides, unit]]

    entries = chosen("bench", lambda name: name.startswith("without-"))
    return table(entries, ["`without-…`", "measured in", "without / with", "with", "without", "unit"], cells)


def measured_in(name: str) -> str:
    """The work of a row: `ppo, tiny, early eos`."""
    work = COMPARISONS[name].workload
    answers = [f"{work.completions} completions of a prompt"] if work.completions > 1 else []
    return ", ".join([work.kind, work.size, *(["early eos"] if work.eos else []), *answers])


def bench_lora() -> str:
    """A step with adapters, ours and TRL's: time and memory; and the same with all weights if it was measured."""

    def cells(name: str, numbers: Any) -> list[list[str]]:
        digits = 0 if numbers["unit"].startswith("MB") else 1
        sides = [f"{numbers[side]:,.{digits}f}" for side in ("ours", "theirs")]
        return [[f"`{name}`, {numbers['unit'].partition(',')[0]}", *sides, with_range(numbers), target(numbers)]]

    whole = ("ppo-gpt2-1-fp32", "memory-gpt2-fp32")
    entries = chosen("bench", lambda name: "lora-" in name)
    entries |= {name: one for name, one in read("bench").items() if name in whole}
    return table(entries, ["row", "ours", "TRL 1.12", "theirs / ours", "target"], cells)


def growth() -> str:
    """By what the time and the memory of a step grow."""

    def cells(name: str, points: Any) -> list[list[str]]:
        first, last = (
            (list(points)[-2], list(points)[-1])
            if name.startswith("width")
            else (min(points, key=int), max(points, key=int))
        )
        times = {key: points[last][key] / points[first][key] for key in ("seconds", "memory_mb", "parameters")}
        size = times["parameters"] if name.startswith("width") else int(last) / int(first)
        unit = ", in parameters" if name.startswith("width") else ""
        return [
            [f"{name}, {first} → {last}", f"{size:.3g}{unit}", f"{times['seconds']:.1f}", f"{times['memory_mb']:.1f}"]
        ]

    return table(read("growth"), ["from → to", "times", "time", "memory above the loaded models"], cells)


# --- time to a given quality ------------------------------------------------------------------------------------------


def quality() -> str:
    """The seconds that each side's fastest setting needs, and the search for it."""
    entries = read("quality")
    curves = [one["numbers"] for one in entries.values()]
    lines = [f"{where(entries)}.", "", row([f"CPU seconds to gold {GOLD:g}", "each seed", "median", "median / ours"])]
    lines.append("|---|---|---|---|")
    found = comparison(curves)
    ours = median_seconds(found["ours"]["seconds"])
    for side, best in found.items():
        middle = median_seconds(best["seconds"])
        times = f"{middle / ours:.1f}" if ours and middle else "–"
        lines.append(
            row([f"{side}, {best['name']}", ", ".join(map(_seconds, best["seconds"])), _seconds(middle), times])
        )
    lines += ["", row(["search, seed 0", "CPU seconds to it", "of all steps", "gold in the end"]), "|---|---|---|---|"]
    for curve in curves:
        if curve["seed"] == 0:
            (end, gold), name = curve["points"][-1], f"{curve['side']}, {curve['name']}"
            lines.append(row([name, _seconds(curve["seconds"]), f"{end:.0f}", f"{gold:.2f}"]))
    return "\n".join(lines)


def _seconds(number: float | None) -> str:
    return "not reached" if number is None else f"{number:.0f}"


# --- memory -----------------------------------------------------------------------------------------------------------


def memory() -> str:
    """What each stage said and what was measured, by size."""

    def cells(size: str, stages: Any) -> list[list[str]]:
        return [[size, stage, f"{s:.2f}", f"{m:.2f}", f"{s / m:.2f}"] for stage, (s, m) in stages.items()]

    return table(read("memory"), ["size", "stage", "said, GB", "measured, GB", "said / measured"], cells)


def sharded_memory() -> str:
    """The resident memory of each process in MB."""

    def cells(count: str, numbers: Any) -> list[list[str]]:
        names = ["one process"] if count == "1" else [f"process {n} of {count}, FSDP2" for n in range(int(count))]
        return [[name, *(f"{mb:,}" for mb in line)] for name, line in zip(names, numbers["processes"], strict=True)]

    entries = read("sharded_memory")
    sizes = {one["numbers"]["megabytes"] for one in entries.values()}
    text = f"Four models of {' or '.join(map(str, sorted(sizes)))} MB each; MB. "
    heads = ["", "after imports", "with four models", "peak of the step", "peak with the checkpoint"]
    return text + table(entries, heads, cells)


# --- exactness --------------------------------------------------------------------------------------------------------


def mismatch() -> str:
    """How far the probability ratio is from 1 before any update."""

    def cells(model: str, lines: Any) -> list[list[str]]:
        return [
            [model, f"{p['forward']}, {p['head']}", f"{p['mean']:.1e}", f"{p['low']:.3f}, {p['high']:.3f}"]
            for p in lines
        ]

    heads = ["model", "forward pass, last layer", "mean of \\|r − 1\\|", "1st and 99th percentile"]
    return table(read("mismatch"), heads, cells)


def optimum() -> str:
    """How far PPO ends from the optimum."""

    def cells(beta: str, numbers: Any) -> list[list[str]]:
        return [[beta, f"{numbers['kl']:.1e}", f"{numbers['remaining']:.3%}"]]

    return table(read("optimum"), ["β", "KL(π‖π\\*), nats", "share of the gain not reached"], cells)


def kill() -> str:
    """How often each stage was interrupted."""
    kinds = ("interruptions", "SIGKILL", "SIGTERM", "while writing a checkpoint", "runs compared")

    def cells(stage: str, counts: Any) -> list[list[str]]:
        return [[stage, *(str(counts.get(kind, 0)) for kind in kinds)]]

    return table(read("kill"), ["stage", *kinds[:-1], "finished runs, compared byte by byte"], cells)


def mutation() -> str:
    """How many mutants of each file the tests kill."""

    def cells(module: str, counts: Any) -> list[list[str]]:
        mutants, killed = counts["mutants"], counts["killed"]
        return [[f"`{module}`", str(mutants), str(killed), f"{killed / mutants:.1%}"]]

    return table(read("mutation"), ["file", "mutants", "killed", "share"], cells)


def sitting() -> str:
    """What each rater's sitting measured."""
    entries = read("sitting")
    heads = next(iter(entries.values()))["numbers"]
    return table(entries, heads, lambda rater, numbers: [list(numbers.values())])


def gpu() -> str:
    """The report of `make gpu`."""
    return "\n\n".join(one["numbers"]["report"] for one in read("gpu").values())


BLOCKS: dict[str, tuple[Callable[[], str], str]] = {
    "bench": (bench, "make bench"),
    "bench-memory": (bench_memory, "make bench"),
    "bench-summary": (bench_summary, "make bench"),
    "bench-ablation": (bench_ablation, "make bench ARGS=\"--only 'without-*'\""),
    "bench-lora": (bench_lora, 'make bench ARGS="--only lora-gpt2-fp32 memory-lora-gpt2-fp32"'),
    "gpu": (gpu, "make gpu"),
    "growth": (growth, "make growth"),
    "quality": (quality, "make quality"),
    "memory": (memory, "python -m tests.memory"),
    "sharded-memory": (sharded_memory, "python -m tests.sharded_memory"),
    "mismatch": (mismatch, "python -m tests.mismatch FOLDER"),
    "optimum": (optimum, "make optimum"),
    "kill": (kill, "make kill"),
    "mutation": (mutation, "make mutate"),
    "sitting": (sitting, "make sitting BASE=runs/tiny"),
}
PENDING = ("bench", "bench-memory", "bench-summary", "bench-ablation", "bench-lora", "quality", "kill", "sitting")
