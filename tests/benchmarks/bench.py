"""Our speed beside TRL's: both sides in turn, on the same models, prompts, lengths, epochs, minibatches and losses.

    make bench                                  all rows, which takes an hour or more; on a CPU without gpu-*
    make bench ARGS="--list"                    their names
    make bench ARGS="--only ppo-tiny-1-fp32"    one or several of them; 'ppo-tiny*' is a pattern

A ratio is theirs / ours for each pair of consecutive steps: of process CPU time on a CPU, of time by CUDA events on a
GPU. The table has the median, the least and the greatest. All rows go to runs/bench/bench.json, and to
runs/measured/bench.json, which `python -m tests.pages runs/measured/bench.json` puts into docs/.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.workloads import COMPARISONS, SIZES, Comparison, Side, Workload
from tests.pages.measured import record

ROOT = Path(__file__).parents[2]
PHASES = ("generate", "score", "update")


# --- running both sides -----------------------------------------------------------------------------------------------


class Process:
    """A worker process. It replies with a line of JSON, once when it is ready and then for each step."""

    def __init__(self, side: Side, workload: Workload, folder: Path, python: str, threads: int):
        job = json.dumps({"side": asdict(side), "workload": asdict(workload), "folder": str(folder)})
        module = f"tests.benchmarks.{'ours' if side.implementation == 'ours' else 'theirs'}"
        environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(threads)}
        self.side, self.log = side, folder / f"{module}-{side.numerics}-{side.values}-{side.without}{side.extra}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [python, "-m", module, job], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                cwd=ROOT, env={**os.environ, **environment},
            )  # fmt: skip

    def reply(self) -> dict[str, Any]:
        """The next reply. Raises RuntimeError, with the end of the log, if the process has ended."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.side} has ended:\n{self.log.read_text()[-3000:]}")
        return json.loads(line)

    def step(self) -> dict[str, Any]:
        """Makes one step and returns its measurements, see `Worker.end`."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self.reply()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def measure(
    workload: Workload, sides: list[Side], pythons: dict[str, str], threads: int, rounds: int
) -> dict[Side, list[dict]]:
    """The timed steps of every side. Sides take turns: each makes one step before the first makes its next.

    Raises RuntimeError if the sides do not do the same work.
    """
    from tests.benchmarks.inputs import make_models

    steps, facts = {side: [] for side in sides}, {}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as alive:
        make_models(Path(scratch), workload)

        def start(side: Side) -> Process:
            return Process(side, workload, Path(scratch), pythons.get(side.implementation, sys.executable), threads)

        if SIZES[workload.size].keep_alive:
            processes = {side: alive.enter_context(start(side)) for side in sides}
            facts = {side: process.reply() for side, process in processes.items()}
            for _ in range(1 + rounds):
                for side, process in processes.items():
                    steps[side].append(process.step())
            steps = {side: rows[1:] for side, rows in steps.items()}  # the first is a warm-up
        else:
            for _ in range(rounds):
                for side in sides:
                    with start(side) as process:
                        facts[side] = process.reply()
                        process.step()
                        steps[side].append(process.step())
    check_facts(workload, facts)
    for key in ("samples", "updates", "prompts"):
        check_equal(workload, key, {side: [row.get(key) for row in rows] for side, rows in steps.items()})
    return steps


def check_facts(workload: Workload, facts: dict[Side, dict]) -> None:
    """Raises RuntimeError unless all sides loaded the same weights and compute the same numbers from the same rows."""
    check_equal(workload, "models", {side: fact["models"] for side, fact in facts.items()})
    for key in ("logprobs", "scores"):
        rounded = {side: [round(number, 3) for number in fact.get(key, [])] for side, fact in facts.items()}
        first = next(iter(rounded.values()))
        for side, numbers in rounded.items():
            if any(abs(a - b) > 2e-3 for a, b in zip(first, numbers, strict=True)):
                raise RuntimeError(f"{workload}: {key} of {side} differ: {rounded}")


def check_equal(workload: Workload, name: str, values: dict[Side, Any]) -> None:
    """Raises RuntimeError unless the values of all sides are equal."""
    if len({json.dumps(value) for value in values.values()}) > 1:
        raise RuntimeError(f"{workload}: {name} differ between the sides: {values}")


def measured_peak(threads: int, seconds: float = 1.0) -> dict[str, float]:
    """GFLOP/s of the fastest of many products of two large square matrices, by numerics; on a CPU with `threads`."""
    import torch

    torch.set_num_threads(threads)
    cuda = torch.cuda.is_available()
    # CPU time, as for the steps: other programs take wall time from a product
    size, clock, peak = (8192, time.perf_counter, {}) if cuda else (2048, time.process_time, {})
    for numerics, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        matrix, best = torch.randn(size, size, dtype=dtype, device="cuda" if cuda else "cpu"), 1e9
        until = clock() + seconds
        while clock() < until:
            started = clock()
            matrix @ matrix
            if cuda:
                torch.cuda.synchronize()
            best = min(best, clock() - started)
        peak[numerics] = 2 * size**3 / best / 1e9
    return peak


# --- a row of the table -----------------------------------------------------------------------------------------------


def ratios(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Median, least and greatest of theirs / ours over pairs of steps."""
    pairs = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {"ratio": median(pairs), "ratio_min": min(pairs), "ratio_max": max(pairs)}


def summary(steps: list[dict], clock: str, flops: list[float], peak: float) -> dict[str, Any]:
    """The medians of one side's steps, and its peak memory."""
    seconds = median(step[clock] for step in steps)
    position = ("cpu", "wall").index(clock)  # in the pair that a phase has
    return {
        "seconds": seconds,
        "cpu": median(step["cpu"] for step in steps),
        "wall": median(step["wall"] for step in steps),
        "split": {
            phase: median(step["phases"][phase][position] for step in steps)
            for phase in PHASES
            if phase in steps[0]["phases"]
        },
        "memory_mb": max(step["memory_mb"] for step in steps),
        "tokens": median(step["tokens"] for step in steps),
        "tokens_per_second": median(step["tokens"] / step[clock] for step in steps),
        "peak_fraction": median(f / step[clock] for f, step in zip(flops, steps, strict=True)) / (peak * 1e9),
    }


def table_row(comparison: Comparison, ours: list[dict], theirs: list[dict], peak: dict[str, float], gpu: bool) -> dict:
    """A comparison as bench.json has it. `ours` and `theirs` are the steps, pair by pair."""
    clock, sides = "wall" if gpu else "cpu", {}
    for name, side, steps in (("ours", comparison.ours, ours), ("theirs", comparison.theirs, theirs)):
        flops = [comparison.workload.flops(step["tokens"], side.values) for step in steps]
        sides[name] = summary(steps, clock, flops, peak[side.numerics])
    if comparison.quantity == "memory":
        # the peak of a process is one number for all its steps
        peaks = ([{"memory_mb": sides[side]["memory_mb"]}] for side in ("theirs", "ours"))
        number, unit, measured = "memory_mb", "MB, the peak of a process", [*peaks]
    else:
        number, unit, measured = "seconds", "s a step" if gpu else "CPU s a step", [theirs, ours]
    key = "memory_mb" if number == "memory_mb" else clock
    wall = ratios([step["wall"] for step in theirs], [step["wall"] for step in ours])
    return {
        "name": comparison.name,
        "numerics": comparison.numerics,
        "like_for_like": comparison.like_for_like,
        **ratios(*([step[key] for step in steps] for steps in measured)),
        "ours": sides["ours"][number],
        "theirs": sides["theirs"][number],
        "unit": unit,
        "target": comparison.target,
        "note": comparison.note,
        "peer": comparison.theirs.implementation,
        **{f"wall_{name}": value for name, value in wall.items()},
        "pairs": len(ours),
        "ours_detail": sides["ours"],
        "theirs_detail": sides["theirs"],
        "peak_gflops": peak,
    }


# --- the printed table ------------------------------------------------------------------------------------------------

HEADING = """\
| row | theirs / ours (least–most) | target | wall | ours | theirs | generate / score / update, ours | theirs | peak MB | tokens/s | of the peak |
|---|---|---|---|---|---|---|---|---|---|---|"""


def markdown_line(row: dict) -> str:
    """A row as a line of Markdown: † if it is not like for like, the ratio **bold** if it reaches the target."""
    ours, theirs = row["ours_detail"], row["theirs_detail"]
    ratio = f"{row['ratio']:.2f}"
    if row["target"] and row["ratio"] >= row["target"]:
        ratio = f"**{ratio}**"
    splits = [" / ".join(f"{seconds:.2f}" for seconds in side["split"].values()) for side in (ours, theirs)]
    digits = 0 if row["unit"].startswith("MB") else 2
    return " | ".join(
        [
            f"| {row['name']}{'' if row['like_for_like'] else ' †'}",
            f"{ratio} ({row['ratio_min']:.2f}–{row['ratio_max']:.2f})",
            f"{row['target']:g}" if row["target"] else "–",
            f"{row['wall_ratio']:.2f}",
            f"{row['ours']:.{digits}f}",
            f"{row['theirs']:.{digits}f}",
            *splits,
            f"{ours['memory_mb']:.0f} / {theirs['memory_mb']:.0f}",
            f"{ours['tokens_per_second']:.0f} / {theirs['tokens_per_second']:.0f}",
            f"{ours['peak_fraction']:.0%} / {theirs['peak_fraction']:.0%} |",
        ]
    )


def legend(rows: list[dict], machine: str) -> str:
    """The text below the table, which defines its numbers."""
    peak = rows[0]["peak_gflops"]
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row["note"]:
            notes.setdefault(("" if row["like_for_like"] else "† ") + row["note"], []).append(row["name"])
    return "\n".join(
        [
            f"Measured on {machine}. The peak, a product of large matrices: fp32 {peak['fp32']:,.0f}, bf16 {peak['bf16']:,.0f} GFLOP/s.",
            "FLOPs: 2 per parameter and token forward, 4 backward, of the passes that the algorithm needs; no padding.",
            "Tokens: prompts and responses, or the rows of a data set, each once. Pairs in columns are ours / theirs.",
            *(f"{note}: {', '.join(names)}" for note, names in notes.items()),
        ]
    )


# --- the command line -------------------------------------------------------------------------------------------------


def select(patterns: list[str] | None) -> list[Comparison]:
    """The comparisons whose names match a pattern, by default all. Raises SystemExit for a pattern that matches none."""
    for pattern in patterns or []:
        if not any(fnmatch(name, pattern) for name in COMPARISONS):
            raise SystemExit(f"no row {pattern!r}; --list prints all names")
    return [c for name, c in COMPARISONS.items() if not patterns or any(fnmatch(name, p) for p in patterns)]


def groups(comparisons: list[Comparison]) -> Iterator[list[Comparison]]:
    """Comparisons that are measured together: the same workload and the same other side, which runs only once."""
    by_peer: dict[Any, list[Comparison]] = {}
    for comparison in comparisons:
        by_peer.setdefault((comparison.workload, comparison.theirs), []).append(comparison)
    yield from by_peer.values()


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--only", nargs="+", metavar="NAME", help="rows to run, instead of all")
    result.add_argument("--list", action="store_true", help="print the names of all rows, and run nothing")
    result.add_argument("--trl112", default=".venv-trl112/bin/python", help="Python of the environment with TRL 1.12.0")
    result.add_argument("--rounds", type=int, help="timed steps of each side, instead of 5 (tiny) or 2 (larger)")
    result.add_argument("--threads", type=int, default=1, help="of each side")
    result.add_argument("--output", type=Path, default=Path("runs/bench/bench.json"))
    return result


def main() -> None:
    arguments = parser().parse_args()
    comparisons = select(arguments.only)
    if arguments.list:
        print("\n".join(comparison.name for comparison in comparisons))
        return

    import torch

    gpu, threads = torch.cuda.is_available(), arguments.threads
    if not gpu and not arguments.only:
        comparisons = [c for c in comparisons if not c.name.startswith("gpu-")]  # they would take hours on a CPU
    peak, rows = measured_peak(threads), []
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    print(HEADING, flush=True)
    for group in groups(comparisons):
        sides = list(dict.fromkeys([group[0].theirs, *(comparison.ours for comparison in group)]))
        workload, pythons = group[0].workload, {"TRL 1.12": arguments.trl112}
        steps = measure(workload, sides, pythons, threads, arguments.rounds or SIZES[workload.size].rounds)
        for comparison in group:
            rows.append(table_row(comparison, steps[comparison.ours], steps[comparison.theirs], peak, gpu))
            print(markdown_line(rows[-1]), flush=True)
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")
        record("bench", {row["name"]: row for row in rows})
    machine = torch.cuda.get_device_name() if gpu else f"{processor()}, {threads} of {os.cpu_count()} cores"
    print(f"\n{legend(rows, machine)}\n{arguments.output}")


def processor() -> str:
    """The name of the CPU."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].split(":")[1].strip() if names else platform.processor()


if __name__ == "__main__":
    main()
