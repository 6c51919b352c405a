"""How good the reward model is: accuracy by difficulty of the pair, calibration, against length and against chance."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlhf.evaluate import Estimate, ratio_estimate
from rlhf.report import BENCHMARK_COLUMNS
from rlhf.rows import Row
from stages.reporting import drawing
from stages.reporting.content import Picture, Pictures, Section, Table, Text, estimate, number, place
from stages.reporting.drawing import Bar
from stages.reporting.files import RunFiles

BINS = 10  # of the reliability curve, equally wide, from 0.5 to 1
PARTS = 5  # into which margins and length differences are divided, with about as many pairs each
MOST_GROUPS = 12
BY_LENGTH = "By length"
LEAD = (
    "Held-out rankings, pair by pair: is the answer that the labeller preferred scored higher? 0.5 is chance. A pair with a "
    "small margin is hard, and a noisy labeller errs there too. Intervals are 95\u00a0% bootstrap intervals over prompts."
)


@dataclass(frozen=True)
class Pair:
    """Two completions of a prompt, of which the labeller preferred the first. Differences are first minus second."""

    prompt: int
    score: float  # difference of the scores, as log-odds
    length: int
    ranks: float  # positive
    quality: float | None  # difference of the true quality; None if it is unknown
    completions: int  # K of the ranking
    task: str | None
    swapped: bool  # whether one of them answers another prompt


def pairs_of(rankings: Iterable[Row]) -> list[Pair]:
    """All pairs that do not tie."""
    pairs = []
    for prompt, row in enumerate(rankings):
        ranks, scores, lengths = row["ranks"], row["scores"], row["lengths"]
        nothing = [None] * len(ranks)
        quality, swapped = row.get("quality") or nothing, row.get("swapped") or nothing
        for i in range(len(ranks)):
            for j in range(len(ranks)):
                if ranks[i] >= ranks[j]:
                    continue
                first, second = quality[i], quality[j]
                pair = Pair(
                    prompt=prompt,
                    score=scores[i] - scores[j],
                    length=lengths[i] - lengths[j],
                    ranks=ranks[j] - ranks[i],
                    quality=None if first is None or second is None else first - second,
                    completions=len(ranks),
                    task=row.get("task"),
                    swapped=bool(swapped[i] or swapped[j]),
                )
                pairs.append(pair)
    return pairs


Hit = Callable[[Pair], float | None]  # 1 if the pair is ordered right, 0.5 for a tie, 0; None: the pair does not count


def half_sign(difference: float) -> float:
    """1 for a positive number, 0 for a negative one, a half for 0."""
    return (difference > 0) + 0.5 * (difference == 0)


def by_score(pair: Pair) -> float:
    """Whether the reward model agrees with the labeller."""
    return half_sign(pair.score)


def by_length(pair: Pair) -> float:
    """Whether the longer answer is the preferred one."""
    return half_sign(pair.length)


def gold_by_score(pair: Pair) -> float | None:
    """Whether the reward model agrees with the true quality."""
    return half_sign(pair.score * pair.quality) if pair.quality else None


def gold_by_labeller(pair: Pair) -> float | None:
    """Whether the labeller agrees with the true quality."""
    return half_sign(pair.quality) if pair.quality else None


def accuracy(pairs: Iterable[Pair], hit: Hit = by_score) -> tuple[Estimate, int] | None:
    """The share of pairs that are ordered right, with its interval over prompts, and their number; None without pairs."""
    counts: dict[int, list[float]] = {}
    for pair in pairs:
        if (value := hit(pair)) is not None:
            entry = counts.setdefault(pair.prompt, [0.0, 0.0])
            entry[0] += value
            entry[1] += 1
    if not counts:
        return None
    correct, total = zip(*counts.values(), strict=True)
    return ratio_estimate(correct, total), int(sum(total))


def calibration(pairs: Sequence[Pair]) -> tuple[list[tuple[float, float, int]], float]:
    """The reliability curve, (mean predicted probability, share that came true, count) of each bin, and the ECE.

    The prediction for a pair is sigmoid(|score difference|) that the labeller prefers the answer with the higher score.
    The expected calibration error is the mean over pairs of |predicted − true| of their bin (arXiv 1706.04599).
    """
    difference = np.array([pair.score for pair in pairs])
    predicted = 1 / (1 + np.exp(-np.minimum(np.abs(difference), 500.0)))
    true = (difference > 0) + 0.5 * (difference == 0)
    bins = np.minimum(((predicted - 0.5) * 2 * BINS).astype(int), BINS - 1)
    curve, error = [], 0.0
    for index in np.unique(bins):
        chosen = bins == index
        mean, share, count = float(predicted[chosen].mean()), float(true[chosen].mean()), int(chosen.sum())
        curve.append((mean, share, count))
        error += count / len(pairs) * abs(mean - share)
    return curve, error


# --- groups of pairs --------------------------------------------------------------------------------------------------


def quantile_groups(pairs: Sequence[Pair], values: Sequence[float], unit: str, digits: int) -> dict[str, list[Pair]]:
    """The pairs in up to PARTS groups of about the same size, by a number of each pair."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, PARTS + 1)))
    if len(edges) == 1:
        return {f"{number(float(edges[0]), digits)}{unit}": list(pairs)}
    index = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    groups: dict[str, list[Pair]] = {}
    for i in range(len(edges) - 1):
        inside = [pair for pair, where in zip(pairs, index, strict=True) if where == i]
        if inside:
            groups[f"{number(float(edges[i]), digits)} to {number(float(edges[i + 1]), digits)}{unit}"] = inside
    return groups


def groups_by(pairs: Iterable[Pair], name: Callable[[Pair], str]) -> dict[str, list[Pair]]:
    """The pairs by a name of each, largest groups first, at most MOST_GROUPS."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(name(pair), []).append(pair)
    return dict(sorted(groups.items(), key=lambda entry: -len(entry[1]))[:MOST_GROUPS])


def breakdowns(pairs: list[Pair]) -> dict[str, dict[str, list[Pair]]]:
    """Title of a picture -> its groups. A breakdown with a single group is left out."""
    known = [pair for pair in pairs if pair.quality is not None]
    if known:
        title, margins = "By margin: difference of true quality", [abs(pair.quality or 0.0) for pair in known]
        by_margin = quantile_groups(known, margins, "", 1)
    else:
        title = "By margin: difference of ranks"
        by_margin = dict(sorted(groups_by(pairs, lambda pair: f"{pair.ranks:g}").items(), key=lambda e: float(e[0])))
    lengths = [pair.length for pair in pairs]
    kinds = {True: "one answers another prompt", False: "both answer the prompt"}
    result = {
        title: by_margin,
        f"{BY_LENGTH}: preferred minus other, tokens": quantile_groups(pairs, lengths, "", 0),
        "By task": groups_by((pair for pair in pairs if pair.task is not None), lambda pair: str(pair.task)),
        "By K, the completions of a ranking": dict(
            sorted(groups_by(pairs, lambda pair: f"K = {pair.completions}").items())
        ),
        "By kind of pair": groups_by(pairs, lambda pair: kinds[pair.swapped]),
    }
    return {name: groups for name, groups in result.items() if len(groups) > 1}


# --- the section ------------------------------------------------------------------------------------------------------


def section(files: RunFiles, make: str) -> Section:
    """The section on the reward model. `make` is the command that evaluates."""
    result = Section("reward", "The reward model", LEAD)
    pairs = pairs_of(files.rankings or [])
    benchmarks = benchmark_tables((files.metrics or {}).get("benchmarks", {}))
    if not pairs:
        result.blocks += benchmarks
        result.missing = "" if benchmarks else f"There are no held-out rankings with scores: run `{make}`"
        return result
    curve, error = calibration(pairs)
    result.blocks += [Text(_in_short(files, pairs)), _overall(pairs, error)]
    pictures = [_picture(f"reward-{i}", title, groups) for i, (title, groups) in enumerate(breakdowns(pairs).items())]
    told = ", ".join(f"{number(p)} predicted, {number(t)} true ({count:,} pairs)" for p, t, count in curve)
    title = "Reliability: predicted against true"
    pictures.append(drawing.reliability("reward-reliability", title, told, curve))
    result.blocks.append(Pictures("Where it is right, and how sure it is", pictures))
    result.blocks.append(
        Text(
            f"Expected calibration error: {number(error, 3)}. The prediction is sigmoid of the score difference. Points "
            "below the dashed line: the reward model is too sure. Larger points stand for more pairs."
        )
    )
    result.blocks += [_table(pairs), *benchmarks]
    return result


def benchmark_tables(benchmarks: Mapping[str, Any]) -> list[Table]:
    """A table for each benchmark file, with a row per subset, and their mean in the last row."""
    tables = []
    for file, metrics in benchmarks.items():
        subsets = metrics["subsets"]
        columns = [name for name in BENCHMARK_COLUMNS if any(name in subset for subset in subsets.values())]
        rows = [[name, f"{s['rows']:,}", *(estimate(s, column) for column in columns)] for name, s in subsets.items()]
        rows.append(
            ["mean of the subsets", f"{metrics['rows']:,}", *[""] * (len(columns) - 1), estimate(metrics, "mean")]
        )
        titles = [column.replace("_", " ") for column in columns]
        tables.append(Table(f"{file}, reward model {place(metrics['model'])}", ["", "rows", *titles], rows))
    return tables


def _in_short(files: RunFiles, pairs: list[Pair]) -> str:
    rankings = len(files.rankings or [])
    sizes = sorted({pair.completions for pair in pairs})
    same_size = f" All rankings have K = {sizes[0]} completions." if len(sizes) == 1 else ""
    return f"{len(pairs):,} pairs of {rankings:,} held-out rankings.{same_size}"


def _overall(pairs: list[Pair], error: float) -> Table:
    """The accuracies over all pairs, beside those of length alone and of chance."""
    own = [pair for pair in pairs if not pair.swapped]
    measured: list[tuple[str, Iterable[Pair], Hit]] = [
        ("reward model agrees with the labeller", pairs, by_score),
        ("the same, answers to the same prompt only", own if len(own) < len(pairs) else [], by_score),
        ("length alone: the longer answer is preferred", pairs, by_length),
        ("reward model agrees with gold", pairs, gold_by_score),
        ("labeller agrees with gold", pairs, gold_by_labeller),
    ]
    rows = []
    for name, chosen, hit in measured:
        if result := accuracy(chosen, hit):
            rows.append([name, _text(result[0]), f"{result[1]:,}"])
    rows.insert(2 if len(rows) > 2 else 1, ["chance", "0.500", ""])
    return Table("Over all pairs", ["", "share of pairs", "pairs"], rows)


def _text(found: Estimate) -> str:
    return f"{number(found.value, 3)} [{number(found.low, 3)}, {number(found.high, 3)}]"


def _bar(name: str, pairs: list[Pair]) -> Bar:
    measured, length = accuracy(pairs), accuracy(pairs, by_length)
    assert measured and length  # a group has pairs
    return Bar(name, measured[0].value, measured[0].low, measured[0].high, length[0].value)


def _picture(name: str, title: str, groups: dict[str, list[Pair]]) -> Picture:
    entries = [_bar(label, group) for label, group in groups.items()]
    alt = "; ".join(f"{entry.label}: {number(entry.value)}, length alone {number(entry.baseline)}" for entry in entries)
    if title.startswith(BY_LENGTH):  # length alone is always right there, or always wrong
        entries = [replace(entry, baseline=None) for entry in entries]
    label = "accuracy" if title.startswith(BY_LENGTH) else "accuracy; orange: length alone"
    return drawing.bars(name, title, f"{title}. {alt}", entries, label, reference=0.5)


def _table(pairs: list[Pair]) -> Table:
    rows = []
    for title, groups in breakdowns(pairs).items():
        for label, group in groups.items():
            measured, length = accuracy(group), accuracy(group, by_length)
            assert measured and length
            shares = [_text(measured[0]), number(length[0].value, 3), f"{measured[1]:,}"]
            rows.append([f"{title.partition(':')[0]}: {label}", *shares])
    return Table("The same numbers as a table", ["", "accuracy", "length alone", "pairs"], rows, fold=True)
