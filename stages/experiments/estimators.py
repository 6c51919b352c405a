"""Advantage estimators and policy losses: gold against seconds and against episodes."""

from typing import Any

import numpy as np

from stages.experiments.output import interval, plot
from stages.experiments.results import estimate, evaluations, option_of, row_of, seconds
from stages.experiments.variants import SEEDS, Runs, Variant, ppo

QUESTION = "Which advantage estimator and which policy loss reach the highest gold, by time and by episodes?"
PAPER = "PPO and RLOO; GRPO 2402.03300, Dr. GRPO 2503.20783, GSPO 2507.18071, CISPO 2506.13585, DAPO 2503.14476"
LOOK = "whether the bands of the last points overlap, and `clip_fraction`: where little is clipped, the losses hardly differ."
CHANGE = "`num_ppo_epochs` in SETTINGS of `stages/experiments/estimators.py`; with more epochs more is clipped."

GROUP = {"num_generations": 4}
SETTINGS: dict[str, dict[str, Any]] = {
    "PPO": {},
    "REINFORCE": {"advantage_estimator": "reinforce"},
    "RLOO": {"advantage_estimator": "rloo", **GROUP},
    "GRPO": {"advantage_estimator": "grpo", **GROUP},
    "Dr. GRPO": {"advantage_estimator": "dr_grpo", **GROUP},
    # ten times the range of its paper, because answers are short, so that the ratios of whole answers vary more
    "GSPO": {"advantage_estimator": "grpo", "policy_loss": "gspo", "cliprange": 3e-3, "cliprange_high": 4e-3, **GROUP},
    # no lower bound, as in its paper, and the upper bound of 5 that TRL documents
    "CISPO": {"advantage_estimator": "grpo", "policy_loss": "cispo", "cliprange": 1.0, "cliprange_high": 4.0, **GROUP},
    "DAPO's clip": {"advantage_estimator": "grpo", "cliprange_high": 0.28, "loss_aggregation": "tokens", **GROUP},
}


def setting(name: str) -> list[Variant]:
    """PPO with these options, one variant for each seed."""
    return [ppo(**SETTINGS[name], seed=seed) for seed in SEEDS]


def variants() -> list[Variant]:
    """Each method with each seed."""
    return [v for name in SETTINGS for v in setting(name)]


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row for each evaluation of each method: episodes, seconds of training so far, gold, score and KL."""
    rows = []
    for name in SETTINGS:
        curves = [evaluations(runs.result(v)) for v in setting(name)]
        batch = option_of(runs, setting(name)[0], "batch_size")
        for points in zip(*curves, strict=True):
            step = points[0]["step"]
            numbers = {key: np.array([point[key] for point in points], dtype=float) for key in ("gold", "score", "kl")}
            taken = seconds(runs, setting(name), step)
            means = {key: float(values.mean()) for key, values in numbers.items() if key != "gold"}
            gold = estimate(numbers["gold"])
            if step:
                means["clip_fraction"] = float(np.mean([point["clip_fraction"] for point in points]))
            rows.append(row_of(method=name, episodes=step * batch, seconds=taken, gold=gold, **means))
    return rows


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """Gold against episodes and against seconds, a line for each method."""
    left, right = figure.subplots(1, 2, sharey=True)
    for number, name in enumerate(SETTINGS):
        curve = [row for row in rows if row["method"] == name]
        for axis, x in ((left, "episodes"), (right, "seconds")):
            plot(axis, curve, x, "gold", label=name, color=f"C{number}", alpha=0.8)
            axis.set_xlabel(x if x == "episodes" else "seconds of training, one thread")
    left.set_ylabel("gold (true quality)")
    right.legend(fontsize=8)


def seen(rows: list[dict[str, Any]]) -> str:
    """The best method at the end, those whose interval overlaps with its own, and the fastest."""
    final: dict[str, dict[str, Any]] = {row["method"]: row for row in rows}  # the last row of each method
    best = max(final, key=lambda name: final[name]["gold"])
    others = [name for name in final if name != best]
    close = [name for name in others if final[name]["gold_high"] >= final[best]["gold_low"]]
    below = [name for name in others if name not in close]
    fastest = min(final, key=lambda name: final[name]["seconds"])
    overlap = f"overlap with those of {', '.join(close)}" if close else "overlap with no other"
    clear = f"; {', '.join(below)} {'are' if below[1:] else 'is'} lower" if below else ""
    clipped = {name: max(r["clip_fraction"] for r in rows if r["method"] == name and r["episodes"]) for name in final}
    listed = ", ".join(f"{name} {share:.1%}" for name, share in clipped.items())
    return (
        f"After {final[best]['episodes']:,.0f} episodes {best} has the highest gold, {interval(final[best], 'gold')}; its "
        f"bounds {overlap}{clear}. "
        f"{fastest} takes the least time, {final[fastest]['seconds']:.0f} s, with a gold of "
        f"{interval(final[fastest], 'gold')}; PPO takes {final['PPO']['seconds']:.0f} s. "
        f"At an evaluated step at most this share of the ratios is clipped, with one epoch for each batch: {listed}."
    )
