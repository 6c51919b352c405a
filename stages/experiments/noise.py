"""Noise of the labels, and completions of other prompts in the rankings: reward model, and PPO on it."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf import InputError
from stages.common.run import Run, record_of
from stages.experiments.accuracy import accuracies, held_out, scores_of
from stages.experiments.output import interval, plot
from stages.experiments.results import estimate, evaluations, last, row_of
from stages.experiments.variants import SEEDS, Runs, Variant, ppo, variant

QUESTION = "What do label noise, and rankings without completions of other prompts, cost reward model and policy?"
PAPER = "InstructGPT, section 3.4, and Gao et al. 2023, section 2"
LOOK = "how much less gold falls than accuracy, and whether the policy gives many prompts the same answer."
CHANGE = "SETTINGS in `stages/experiments/noise.py`."
PAGE = "reward-model-experiments.md"

USUAL = (1.5, 1)  # noise, and completions of other prompts in each ranking, of the finished run
SETTINGS = ((0, 1), USUAL, (5, 1), (1.5, 0))


def prepare(runs: Runs) -> None:
    """Raises InputError if the rankings of the finished run were not made with the usual noise and completions."""
    path = Run(runs.base).find("comparisons")
    options = record_of(path).get("options", {})
    if (options.get("noise"), options.get("swapped")) != USUAL:
        raise InputError(
            f"{path} was made with noise {options.get('noise')} and swapped {options.get('swapped')}; the experiment "
            f"compares with {USUAL[0]} and {USUAL[1]}: take another BASE, or change USUAL in {__file__}"
        )


def reward(noise: float, swapped: int) -> Variant | None:
    """The reward model trained on such rankings; None is that of the finished run."""
    differing: dict[str, Any] = {}
    if noise != USUAL[0]:
        differing["noise"] = noise
    if swapped != USUAL[1]:
        differing["swapped"] = swapped
    return variant("reward", variant("comparisons", **differing)) if differing else None


def setting(noise: float, swapped: int) -> list[Variant]:
    """PPO on that reward model, one variant for each seed."""
    return [ppo(reward(noise, swapped), seed=seed) for seed in SEEDS]


def variants() -> list[Variant]:
    """PPO on the reward model of each setting."""
    return [v for noise, swapped in SETTINGS for v in setting(noise, swapped)]


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row for the SFT model, and one for each setting: accuracies of the reward model, and PPO's answers at the end.

    `accuracy` is that of pairs of a prompt's own completions, `accuracy_swapped` that of pairs with a completion of
    another prompt, both of the finished run's held-out rankings. `accuracy_lost` and `gold_lost` are what the setting
    loses against the first one. `distinct` and `commonest` are shares of `forms`. The intervals of the accuracies are
    over prompts alone: each setting has one reward model.
    """
    test = held_out(runs)
    starts = [evaluations(runs.result(v))[0] for v in setting(*USUAL)]
    gold = estimate(np.array([start["gold"] for start in starts], dtype=float))
    rows = [row_of(model="SFT", gold=gold, **shares([start["completions"] for start in starts]))]
    first: dict[str, np.ndarray] = {}
    for noise, swapped in SETTINGS:
        made, trained = setting(noise, swapped), reward(noise, swapped)
        scores = [scores_of(runs.result(trained) if trained else Run(runs.base).find("reward"), test)]
        numbers = {"accuracy": accuracies(scores, test.own()), "gold": last(runs, made, "gold")}
        first = first or numbers
        entries = {
            **{name: estimate(values) for name, values in numbers.items()},
            **{
                f"{name}_lost": estimate(first[name], values)
                for name, values in numbers.items()
                if first is not numbers
            },
            "accuracy_swapped": estimate(accuracies(scores, test.order(), without=test.own())),
            "kl": estimate(last(runs, made, "kl")),
            **shares([evaluations(runs.result(v))[-1]["completions"] for v in made]),
        }
        rows.append(row_of(model="PPO", noise=noise, swapped=swapped, **entries))
    return rows


def forms(completions: Sequence[str]) -> list[str]:
    """The completions without what tells prompts of one kind apart: capitalised words, such as names, and numbers."""
    return [re.sub(r"\b([A-Z]\w*|\d+)\b", "_", completion).strip() for completion in completions]


def shares(by_seed: Sequence[Sequence[str]]) -> dict[str, float]:
    """The shares of distinct forms and of the most frequent form of the completions of all prompts.

    Means over seeds; the interval is from the lowest to the highest seed.
    """
    counts = [Counter(forms(completions)) for completions in by_seed]
    distinct = [len(count) / count.total() for count in counts]
    commonest = [max(count.values()) / count.total() for count in counts]
    return {
        "distinct": float(np.mean(distinct)),
        "distinct_low": min(distinct),
        "distinct_high": max(distinct),
        "commonest": float(np.mean(commonest)),
    }


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """Accuracy and gold against the noise; the share of distinct answers with and without completions of others."""
    swept = sorted((row for row in rows if row.get("swapped") == USUAL[1]), key=lambda row: row["noise"])
    left, middle, right = figure.subplots(1, 3)
    for axis, name, title in ((left, "accuracy", "reward model's accuracy"), (middle, "gold", "gold after PPO")):
        plot(axis, swept, "noise", name)
        axis.set(title=title, xlabel="noise of the labeller")
    middle.axhline(rows[0]["gold"], color="grey", linestyle=":", label="SFT")
    middle.legend()
    compared = [rows[0], *_compared(rows)]
    names = ["SFT", f"PPO, {USUAL[1]} added", "PPO, none"]
    errors = np.array(
        [[row["distinct"] - row["distinct_low"], row["distinct_high"] - row["distinct"]] for row in compared]
    )
    right.bar(names, [row["distinct"] for row in compared], yerr=errors.T, capsize=3)
    right.set(title="share of distinct answers", ylim=(0, 1.05))
    right.tick_params(axis="x", labelsize=7)


def _compared(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The usual setting, and the same without completions of other prompts."""
    usual = [row for row in rows if row.get("noise") == USUAL[0]]
    return next(row for row in usual if row["swapped"]), next(row for row in usual if not row["swapped"])


def seen(rows: list[dict[str, Any]]) -> str:
    """What the largest noise costs, and whether answers become alike without completions of other prompts."""
    swept = sorted((row for row in rows if row.get("swapped") == USUAL[1]), key=lambda row: row["noise"])
    least, most = swept[0], swept[-1]
    falls = {name: most[f"{name}_lost_low"] > 0 for name in ("accuracy", "gold")}
    outcome = {
        (True, True): "both fall",
        (True, False): "the accuracy falls, gold does not clearly",
        (False, True): "gold falls, the accuracy does not clearly",
        (False, False): "neither falls clearly",
    }[falls["accuracy"], falls["gold"]]
    first = (
        f"From noise {least['noise']:g} to {most['noise']:g}, with one reward model each, the accuracy goes from "
        f"{least['accuracy']:.3f} to {most['accuracy']:.3f} and gold after PPO from {interval(least, 'gold')} to {interval(most, 'gold')}: "
        f"{outcome}."
    )
    usual, without = _compared(rows)
    alike = without["distinct_high"] < usual["distinct_low"]
    second = (
        f"Without completions of other prompts the accuracy of rejecting them is {without['accuracy_swapped']:.3f} in "
        f"place of {usual['accuracy_swapped']:.3f}, gold {interval(without, 'gold')} in place of "
        f"{interval(usual, 'gold')}, and distinct answers, names ignored, {without['distinct']:.2f} of all in place of "
        f"{usual['distinct']:.2f}: the policy {'repeats' if alike else 'does not clearly repeat'} answers more."
    )
    return f"{first} {second}"
