"""What the details of PPO buy: each is left out, or done wrong, in turn."""

from typing import Any

import numpy as np

from stages.experiments.output import interval
from stages.experiments.results import estimate, last, perplexities, row_of
from stages.experiments.variants import SEEDS, Runs, Variant, ppo

QUESTION = "What does each detail of PPO buy?"
PAPER = "The N implementation details of RLHF with PPO, arXiv 2403.17031"
LOOK = "which intervals do not contain 0."
CHANGE = "add an option to SETTINGS in `stages/experiments/details.py`."

# what is left out or done wrong: options, or a module of `faults`
SETTINGS: dict[str, dict[str, Any]] = {
    "no whitening of advantages": {"whiten_advantages": False},
    "no value warm-up": {"value_warmup_steps": 0},
    "value model from scratch": {"module": "experiments.faults.value_from_scratch"},
    "no clipping of ratios and values": {"cliprange": 1000.0, "cliprange_value": 1e6},
    "score read one token early": {"module": "experiments.faults.wrong_token"},
    "dropout in updates": {"module": "experiments.faults.dropout"},
}


def setting(options: dict[str, Any]) -> list[Variant]:
    """PPO with these options, one variant for each seed."""
    return [ppo(**options, seed=seed) for seed in SEEDS]


def variants() -> list[Variant]:
    """PPO as the recipe has it, and with each detail left out."""
    return [v for options in ({}, *SETTINGS.values()) for v in setting(options)]


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row for the recipe and for each setting: gold, its difference to the recipe's, KL and perplexity."""
    own = last(runs, setting({}), "gold")
    rows = []
    for name, options in {"the recipe": {}, **SETTINGS}.items():
        gold = last(runs, setting(options), "gold")
        difference = {"difference": estimate(gold, own)} if options else {}
        kl = float(np.mean(last(runs, setting(options), "kl")))
        perplexity = float(perplexities(runs, setting(options)).mean())
        rows.append(row_of(detail=name, gold=estimate(gold), **difference, kl=kl, perplexity=perplexity))
    return rows


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """The differences of gold with their intervals, a line for each detail."""
    axis = figure.subplots()
    for number, row in enumerate(rows[1:]):
        low, high = row["difference"] - row["difference_low"], row["difference_high"] - row["difference"]
        axis.errorbar(row["difference"], -number, xerr=[[low], [high]], marker="o", capsize=3, color="C0")
    axis.set_yticks([-number for number in range(len(rows) - 1)], [row["detail"] for row in rows[1:]])
    axis.axvline(0, color="grey", linewidth=1)
    axis.set_xlabel(f"difference of gold to the recipe's {rows[0]['gold']:.2f}")


def seen(rows: list[dict[str, Any]]) -> str:
    """Which details lower gold, and which make no difference that is larger than its interval."""
    worse = sorted((row for row in rows[1:] if row["difference_high"] < 0), key=lambda row: row["difference"])
    better = [row for row in rows[1:] if row["difference_low"] > 0]
    same = [row for row in rows[1:] if row["difference_low"] <= 0 <= row["difference_high"]]

    def listed(chosen: list[dict[str, Any]]) -> str:
        return ", ".join(f"{row['detail']} ({interval(row, 'difference')})" for row in chosen) or "nothing"

    return (
        f"Gold, {rows[0]['gold']:.2f} with the recipe, is lowered by {listed(worse)}, and raised by {listed(better)}. "
        f"No difference beyond its interval: {listed(same)}."
    )
