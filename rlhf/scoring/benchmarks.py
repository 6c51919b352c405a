"""Accuracies of a reward model on rows with better ("chosen") and worse ("rejected") completions of one prompt.

The definitions are those of RewardBench (arXiv 2403.13787) and RewardBench 2 (arXiv 2506.01937; its code is
github.com/allenai/reward-bench, `reroll_and_score_dataset` and `process_single_model` in rewardbench/utils.py), but an
interval is added, and in a pair equal scores count half, as they do in RewardBench 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf.evaluate import Estimate
from rlhf.rows import Text

DRAWS = 2000
TIES = "ties"  # the subset with several right answers, whatever the case of its name
# the terms of its score with their weights
TIES_WEIGHTS = {"tied": 0.3, "ref": 0.3, "preferred": 0.2, "preferred_hard": 0.2, "margin": 0.01}

Statistic = Callable[[np.ndarray], np.ndarray]  # of weights (draws, rows), as (draws,)


@dataclass(frozen=True)
class Item:
    """A row of a benchmark. The first `chosen` of its completions are the better ones."""

    subset: str
    prompt: Text
    completions: list[Text]
    chosen: int
    listed: bool  # whether the row has lists of completions, as in RewardBench 2; else it is a pair
    id: str = ""  # in the subset Ties ref:NUMBER or tied:NUMBER


def benchmark_metrics(items: Sequence[Item], scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The metrics of each subset under "subsets", and the `mean` over subsets of their `score`, with 95 % intervals.

    `scores` has a list for each item. A subset has its number of `rows`, its `pair_accuracy` and its `score`, which is
    the pair accuracy of pairs, `best_of_n` of lists, and `ties_score` in the subset Ties. Bootstrap over rows within
    subsets; in Ties over its prompts.
    """
    rng = np.random.default_rng(0)
    subsets: dict[str, dict[str, float]] = {}
    values, draws = [], []
    for subset in dict.fromkeys(item.subset for item in items):
        own = [i for i, item in enumerate(items) if item.subset == subset]
        rows, their_scores = [items[i] for i in own], [np.asarray(scores[i], dtype=float) for i in own]
        metrics: dict[str, float] = {"rows": len(rows)}
        for name, (statistic, count) in statistics(rows, their_scores).items():
            value, drawn = bootstrap(statistic, count, rng)
            metrics |= interval(value, drawn).named(name)
        values.append(value)  # of the last statistic, the score
        draws.append(drawn)
        subsets[subset] = metrics | interval(value, drawn).named("score")
    mean = interval(float(np.mean(values)), np.mean(draws, axis=0))
    return {"rows": len(items), **mean.named("mean"), "subsets": subsets}


def statistics(items: Sequence[Item], scores: Sequence[np.ndarray]) -> dict[str, tuple[Statistic, int]]:
    """What is measured in a subset by name, its score last, each with the number of rows that it takes weights of."""
    groups = [(its[: item.chosen], its[item.chosen :]) for item, its in zip(items, scores, strict=True)]
    counts = np.array([pair_counts(*group) for group in groups])
    found = {"pair_accuracy": (ratio(counts[:, 0], counts[:, 1]), len(items))}
    if is_ties(items[0]):
        terms = ties_terms({item.id: group for item, group in zip(items, groups, strict=True)})
        found["ties_score"] = (ties_score(terms), len(terms["tied"]))
    elif items[0].listed:
        best = np.array([best_of_n(*group) for group in groups])
        found["best_of_n"] = (ratio(best, np.ones_like(best)), len(items))
    return found


def is_ties(item: Item) -> bool:
    """Whether the row belongs to the subset Ties of RewardBench 2."""
    return item.listed and item.subset.lower() == TIES


def pair_counts(chosen: np.ndarray, rejected: np.ndarray) -> tuple[float, int]:
    """How many pairs of a chosen and a rejected completion have the right order, half for equal scores; all pairs."""
    difference = chosen[:, None] - rejected
    return float((difference > 0).sum() + 0.5 * (difference == 0).sum()), difference.size


def best_of_n(chosen: np.ndarray, rejected: np.ndarray) -> float:
    """1 if a chosen completion has the highest score, 0 if not; of several with that score, the share of chosen ones."""
    highest = max(chosen.max(), rejected.max())
    right, wrong = (chosen == highest).sum(), (rejected == highest).sum()
    return float(right / (right + wrong))


def ties_terms(groups: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """The terms of the score of Ties for each prompt number, NaN where a prompt lacks one: five arrays (prompts,).

    `groups` maps ids, `tied:NUMBER` with several chosen completions and `ref:NUMBER` with one, to the scores of chosen
    and rejected completions. The gap of a row is that between its worst chosen and its best rejected score.

        tied, ref        whether the gap of that row is above 0
        preferred        whether the tied row's gap is larger than the spread of its chosen scores
        preferred_hard   the same for the smaller one of the gaps of both rows
        margin           tanh(smaller gap / spread - 1)
    """
    gaps = {name: chosen.min() - rejected.max() for name, (chosen, rejected) in groups.items()}
    numbers = list(dict.fromkeys(name.partition(":")[2] for name in groups))
    tied, ref = (np.array([gaps.get(f"{kind}:{n}", np.nan) for n in numbers]) for kind in ("tied", "ref"))
    spreads = [np.ptp(groups[name][0]) if (name := f"tied:{n}") in groups else np.nan for n in numbers]
    spread, smaller = np.array(spreads), np.minimum(ref, tied)
    both = ~np.isnan(smaller)
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = np.nan_to_num(np.tanh(smaller / spread - 1), nan=0.0)
    terms = {
        "tied": (tied > 0, ~np.isnan(tied)),
        "ref": (ref > 0, ~np.isnan(ref)),
        "preferred": (tied > spread, both),
        "preferred_hard": (smaller > spread, both),
        "margin": (margin, both),
    }
    return {name: np.where(known, values, np.nan) for name, (values, known) in terms.items()}


def ties_score(terms: dict[str, np.ndarray]) -> Statistic:
    """The weighted sum of the means of the terms, at most 1.01."""

    def score(weights: np.ndarray) -> np.ndarray:
        means = {name: ratio(np.nan_to_num(term), (~np.isnan(term)) * 1.0)(weights) for name, term in terms.items()}
        return sum((weight * means[name] for name, weight in TIES_WEIGHTS.items()), np.zeros(len(weights)))

    return score


def ratio(parts: np.ndarray, wholes: np.ndarray) -> Statistic:
    """The ratio of the weighted sums."""

    def of(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return (weights @ parts) / (weights @ wholes)

    return of


def bootstrap(statistic: Statistic, rows: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """The statistic of all rows, and of DRAWS resamples of them; NaN where a resample lacks what it needs."""
    share = np.full(rows, 1 / rows)
    # in parts, for less memory
    draws = [statistic(rng.multinomial(rows, share, size=DRAWS // 20).astype(float)) for _ in range(20)]
    return float(statistic(np.ones((1, rows)))[0]), np.concatenate(draws)


def interval(value: float, draws: np.ndarray) -> Estimate:
    """The value with the percentile interval of its draws."""
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return Estimate(value, float(low), float(high))
