"""K, the completions that a labeller ranks for each prompt: what it costs and what the reward model gains."""

import math
from typing import Any

from rlhf import InputError
from rlhf.rows import read_lines
from stages.common.run import Run
from stages.experiments.accuracy import accuracies, held_out, scores_of
from stages.experiments.output import interval, plot
from stages.experiments.results import estimate, row_of
from stages.experiments.variants import SEEDS, Runs, Variant, variant

QUESTION = "Is a larger K better, for the same number of completions and for the same labelling cost?"
PAPER = "InstructGPT, section 3.5"
LOOK = "the slope of each curve. The cost of a ranking is log2(K!), the pairwise comparisons that sorting K takes."
CHANGE = "SIZES in `stages/experiments/k.py`."
PAGE = "reward-model-experiments.md"

COMPLETIONS, COST = "same completions", "same cost"
# the number of prompts by K. The cost of 900 rankings of four is that of 4126 pairs and of 223 rankings of nine
SIZES = {COMPLETIONS: {2: 1800, 4: 900, 9: 400}, COST: {2: 4126, 4: 900, 9: 223}}
TOGETHER = 36  # completions of an optimizer step, for every K


def cost(k: int) -> float:
    """The least number of pairwise comparisons, on average, that sorting K answers takes: log2(K!)."""
    return math.log2(math.factorial(k))


def prepare(runs: Runs) -> None:
    """Raises InputError if the finished run has fewer prompts than an experiment takes."""
    path, most = Run(runs.base).find("data") / "prompts.jsonl", max(SIZES[COST].values())
    if (count := sum(1 for _ in read_lines(path))) < most:
        raise InputError(f"{path} has {count:,} prompts, and {most:,} are needed: take another BASE, or lower SIZES")


def setting(k: int, prompts: int) -> list[Variant]:
    """Reward models trained on rankings of K completions, one variant for each seed.

    No completions of other prompts are added: a ranking would have K + 1, and the share of pairs with such a completion
    would fall with K. The seed is also that of completions and labels.
    """
    made = []
    for seed in SEEDS:
        options: dict[str, Any] = {"completions": k, "count": prompts, "swapped": 0, "test_count": 0, "seed": seed}
        comparisons = variant("comparisons", **options)
        made.append(variant("reward", comparisons, batch_size=TOGETHER // k, warmup_steps=20, seed=seed))
    return made


def variants() -> list[Variant]:
    """Reward models for each K and number of prompts."""
    chosen = {(k, prompts) for sizes in SIZES.values() for k, prompts in sizes.items()}
    return [v for k, prompts in sorted(chosen) for v in setting(k, prompts)]


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row for each K and what is held equal: accuracy, and what it gains over that of the smallest K.

    The accuracy is that of the finished run's held-out rankings, without completions of other prompts.
    """
    test, rows = held_out(runs), []
    for equal, sizes in SIZES.items():
        smallest = None
        for k, prompts in sizes.items():
            scores = [scores_of(runs.result(v), test) for v in setting(k, prompts)]
            numbers = accuracies(scores, test.own())
            entries = {"accuracy": estimate(numbers)}
            if smallest is None:
                smallest = numbers
            else:
                entries["gain"] = estimate(numbers, smallest)
            size = {"prompts": prompts, "completions": k * prompts, "pairs": math.comb(k, 2) * prompts}
            rows.append(row_of(equal=equal, k=k, **size, cost=cost(k) * prompts, **entries))
    return rows


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """Accuracy against K, a curve for each that is held equal."""
    axis = figure.subplots()
    for equal in SIZES:
        own = [row for row in rows if row["equal"] == equal]
        number = own[0]["completions" if equal == COMPLETIONS else "cost"]
        label = f"{number:,.0f} completions" if equal == COMPLETIONS else f"{number:,.0f} pairwise comparisons' cost"
        plot(axis, own, "k", "accuracy", label=label)
    axis.set(xlabel="K, completions of a prompt", ylabel="accuracy on held-out pairs", xticks=[row["k"] for row in own])
    axis.legend()


def seen(rows: list[dict[str, Any]]) -> str:
    """What the largest K gains or loses against the smallest, for each that is held equal."""
    return " ".join(_outcome(equal, [row for row in rows if row["equal"] == equal]) for equal in SIZES)


def _outcome(equal: str, rows: list[dict[str, Any]]) -> str:
    first, last = rows[0], rows[-1]
    course = (
        f"{interval(first, 'accuracy', 3)} at K = {first['k']:.0f} and {interval(last, 'accuracy', 3)} at "
        f"K = {last['k']:.0f} (difference {interval(last, 'gain', 3)})"
    )
    verdict = (
        "a larger K is better"
        if last["gain_low"] > 0
        else "a larger K is worse"
        if last["gain_high"] < 0
        else "K makes no clear difference"
    )
    budget = (
        f"With {first['completions']:,.0f} completions"
        if equal == COMPLETIONS
        else f"At the cost of about {first['cost']:,.0f} pairwise comparisons"
    )
    return f"{budget} the accuracy is {course}: {verdict}."
