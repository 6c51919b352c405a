"""The frontier of reward and KL: PPO with several weights of the KL penalty."""

from typing import Any

import numpy as np

from stages.experiments.output import interval, plot
from stages.experiments.results import estimate, last, option_of, row_of, sqrt_kl
from stages.experiments.variants import SEEDS, Runs, Variant, ppo

QUESTION = "How do the learned score and true quality depend on the KL, as β is swept?"
PAPER = "InstructGPT, appendix E.7"
LOOK = "whether gold falls where the score still rises, and whether the best β is inside the range."
CHANGE = "BETAS in `stages/experiments/frontier.py`."

BETAS = (0.0, 0.03, 0.06, None, 0.25, 0.5)  # None: that of the recipe


def setting(beta: float | None) -> list[Variant]:
    """PPO with this beta, one variant for each seed."""
    return [ppo(seed=seed) if beta is None else ppo(kl_coef=beta, seed=seed) for seed in SEEDS]


def variants() -> list[Variant]:
    """PPO with each beta and seed."""
    return [v for beta in BETAS for v in setting(beta)]


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row for each beta: score, gold and KL on held-out prompts after the last step."""
    rows = []
    for beta in BETAS:
        numbers = {name: last(runs, setting(beta), name) for name in ("score", "gold", "kl", "length")}
        root = sqrt_kl(float(np.mean(numbers["kl"])))
        value = option_of(runs, setting(beta)[0], "kl_coef")
        rows.append(row_of(beta=value, **{name: estimate(n) for name, n in numbers.items()}, sqrt_kl=root))
    return rows


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """Score and gold against the square root of the KL, a point for each beta."""
    rows = sorted(rows, key=lambda row: row["sqrt_kl"])
    for axis, name, title in zip(
        figure.subplots(1, 2), ("score", "gold"), ("reward model's score", "gold (true quality)"), strict=True
    ):
        plot(axis, rows, "sqrt_kl", name)
        for row in rows:
            axis.annotate(f"{row['beta']:g}", (row["sqrt_kl"], row[name]), xytext=(4, 4), textcoords="offset points")
        axis.set(title=f"{title}, by β", xlabel="square root of the KL to SFT, nats")


def seen(rows: list[dict[str, Any]]) -> str:
    """Where gold is best, and whether it falls beyond that while the score rises."""
    best = max(rows, key=lambda row: row["gold"])
    far = max(rows, key=lambda row: row["kl"])
    betas = [row["beta"] for row in rows]
    inside = min(betas) < best["beta"] < max(betas)
    first = (
        f"Gold is highest, {interval(best, 'gold')}, at β {best['beta']:g}, "
        f"{'inside' if inside else 'at the end of'} the range, with a KL of {best['kl']:.1f} nats."
    )
    falls, rises = far["gold_high"] < best["gold_low"], far["score"] > best["score"]
    second = (
        f"At the largest KL, {far['kl']:.1f} nats (β {far['beta']:g}), gold is {interval(far, 'gold')} and the score "
        f"{far['score']:.2f} in place of {best['score']:.2f}: gold "
        + (
            "falls while the score rises."
            if falls and rises
            else "falls, and so does the score."
            if falls
            else "does not fall clearly at this length."
        )
    )
    return f"{first} {second}"
