"""How much chance moves the whole pipeline: every stage again, with other seeds."""

from typing import Any

import numpy as np

from stages.experiments.results import evaluations, row_of
from stages.experiments.variants import Runs, Variant, variant

QUESTION = "How much does chance move the results of the whole pipeline?"
PAPER = "Henderson et al., arXiv 1709.06560"
LOOK = "the spread of gold after PPO beside the gain over SFT."
CHANGE = "SEEDS in `stages/experiments/seeds.py`; ten seeds take a night on a slow machine."

SEEDS = tuple(range(1, 11))
STAGES = ("data", "pretrain", "sft", "comparisons", "reward", "ppo")
NUMBERS = ("score", "gold", "kl", "length")


def whole(seed: int) -> Variant:
    """The whole pipeline with a seed."""
    chain: Variant | None = None
    for stage in STAGES:
        chain = variant(stage, chain, seed=seed)
    assert chain is not None
    return chain


def variants() -> list[Variant]:
    """The whole pipeline with each seed."""
    return [whole(seed) for seed in SEEDS]


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row for each seed: the SFT model and the policy after PPO on the held-out prompts of that seed."""
    rows = []
    for seed in SEEDS:
        points = evaluations(runs.result(whole(seed)))
        first, end = ({name: float(np.mean(point[name])) for name in NUMBERS} for point in (points[0], points[-1]))
        before = {"gold_sft": first["gold"], "perplexity_sft": points[0]["perplexity"]}
        rows.append(row_of(seed=seed, **before, **end, perplexity=points[-1]["perplexity"]))
    return rows


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """Each seed's gold before and after PPO, and its perplexity after PPO."""
    left, right = figure.subplots(1, 2)
    for row in rows:
        left.plot(["SFT", "PPO"], [row["gold_sft"], row["gold"]], marker="o", color="C0", alpha=0.6)
        right.plot(["SFT", "PPO"], [row["perplexity_sft"], row["perplexity"]], marker="o", color="C1", alpha=0.6)
    left.set_title("gold (true quality)")
    right.set_title("perplexity of held-out text")


def seen(rows: list[dict[str, Any]]) -> str:
    """The mean and the standard deviation over seeds, and the smallest gain."""
    gold, sft, kl = (np.array([row[name] for row in rows]) for name in ("gold", "gold_sft", "kl"))
    gains = gold - sft
    return (
        f"Over {len(rows)} seeds gold after PPO is {gold.mean():.2f} with a standard deviation of {gold.std(ddof=1):.2f} "
        f"(from {gold.min():.2f} to {gold.max():.2f}), at a KL of {kl.mean():.2f} ± {kl.std(ddof=1):.2f} nats. "
        f"The gain over SFT is {gains.mean():.2f} ± {gains.std(ddof=1):.2f}, at least {gains.min():.2f}."
    )
