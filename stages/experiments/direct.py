"""DPO, without a reward model, against the reward model with PPO: at equal seconds, and at equal KL.

TRL's DPOTrainer trains the SFT model of the finished run on the pairs that the reward model learns from, see
`direct_training`. `PAIRS` is what fits into the seconds of the reward model and PPO, with one thread each; the table
has the CPU seconds as measured. DPO has one seed for each beta, so its intervals are those of the prompts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf.evaluate import Estimate
from stages.common.run import record_of
from stages.experiments.output import interval, plot
from stages.experiments.results import (
    estimate,
    evaluations,
    last,
    perplexities,
    row_of,
    seconds,
    sqrt_kl,
    stage_seconds,
)
from stages.experiments.variants import SEEDS, Runs, Variant, ppo, variant

QUESTION = "Is DPO, which needs no reward model, better than the reward model with PPO?"
PAPER = "Rafailov et al. 2023, arXiv 2305.18290"
LOOK = "where the curve of DPO lies beside the point of PPO, and the perplexity of pretraining text."
CHANGE = "BETAS, PAIRS and LEARNING_RATE in `stages/experiments/direct.py`."

BETAS = (0.03, 0.1, 0.3, 1.0, 3.0)
# of 29,109 in the recipe tiny; as many as take the CPU seconds of the reward model and PPO, about 130 on one thread
PAIRS = 3_584
LEARNING_RATE = 3e-4  # 2,560 pairs, beta 1: gold 5.34 at a KL of 0.45; with 1e-4, 4.99 at 0.13
SAME_TIME = 1.15  # seconds within this factor are called equal
# in a run of its own, so that its seconds are recorded by the same machine as those of PPO and DPO
REWARD = variant("reward", seed=1)
PPO = [ppo(seed=seed) for seed in SEEDS]


def dpo(beta: float) -> Variant:
    """DPO with this beta."""
    module = "experiments.direct_training"
    return ppo(module=module, kl_coef=beta, total_episodes=PAIRS, learning_rate=LEARNING_RATE, ptx_coef=0.0)


def variants() -> list[Variant]:
    """The reward model, PPO with each seed, and DPO with each beta."""
    return [REWARD, *PPO, *map(dpo, BETAS)]


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row each for SFT, PPO, DPO with each beta, and DPO at the KL of PPO, unless that is outside of its range.

    Gold, KL and perplexity are those after the last step; `gain` is the gold minus that of PPO. Seconds of PPO include
    those of the reward model.
    """
    first = evaluations(runs.result(PPO[0]))[0]
    sft = np.array([first["gold"]], dtype=float)
    gold, kl = last(runs, PPO, "gold"), last(runs, PPO, "kl")
    taken = stage_seconds(record_of(runs.result(REWARD))) + seconds(runs, PPO)
    rows = [row_of(model="SFT", gold=estimate(sft), perplexity=float(first["perplexity"]))]
    rows.append(row_of(model="PPO", seconds=taken, **numbers(gold, kl, perplexities(runs, PPO))))
    for beta in BETAS:
        one = [dpo(beta)]
        own = numbers(last(runs, one, "gold"), last(runs, one, "kl"), perplexities(runs, one))
        gain = estimate(last(runs, one, "gold"), gold)
        rows.append(row_of(model="DPO", beta=beta, seconds=seconds(runs, one), **own, gain=gain))
    kls = [float(last(runs, [dpo(beta)], "kl").mean()) for beta in BETAS]
    if weights := between(kls, float(kl.mean())):
        chosen = [dpo(beta) for beta, weight in zip(BETAS, weights, strict=True) if weight]
        mix = np.array([weight for weight in weights if weight])
        at_kl = np.tensordot(mix, last(runs, chosen, "gold"), 1)[None]
        perplexity = float(mix @ perplexities(runs, chosen)[:, 0])
        entries = {"gold": estimate(at_kl), "sqrt_kl": sqrt_kl(float(kl.mean())), "perplexity": perplexity}
        rows.append(row_of(model="DPO at the KL of PPO", **entries, gain=estimate(at_kl, gold)))
    return rows


def numbers(gold: np.ndarray, kl: np.ndarray, perplexity: np.ndarray) -> dict[str, float | Estimate]:
    """The entries of a row."""
    root = sqrt_kl(float(kl.mean()))
    return {"gold": estimate(gold), "kl": estimate(kl), "sqrt_kl": root, "perplexity": float(perplexity.mean())}


def between(kls: Sequence[float], kl: float) -> list[float]:
    """Weights of the runs with these KLs that interpolate linearly over the root of the KL, at `kl`; sum 1.

    Only the two runs next to it have weight. Empty if `kl` is outside of their range.
    """
    roots, root = [sqrt_kl(each) for each in kls], sqrt_kl(kl)
    below = [i for i, each in enumerate(roots) if each <= root]
    above = [i for i, each in enumerate(roots) if each >= root]
    if not below or not above:
        return []
    low, high = max(below, key=lambda i: roots[i]), min(above, key=lambda i: roots[i])
    weights = [0.0] * len(roots)
    share = (root - roots[low]) / (roots[high] - roots[low]) if roots[high] > roots[low] else 0.0
    weights[low] += 1 - share
    weights[high] += share
    return weights


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """Gold, and perplexity, against the square root of the KL: a curve of DPO over beta, a point of PPO."""
    by_beta = sorted((row for row in rows if row["model"] == "DPO"), key=lambda row: row["sqrt_kl"])
    sft, pipeline = ({"sqrt_kl": 0.0, **row_named(rows, name)} for name in ("SFT", "PPO"))
    titles = {"gold": "gold (true quality)", "perplexity": "perplexity of pretraining text"}
    for axis, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        plot(axis, by_beta, "sqrt_kl", name, label="DPO, by β")
        plot(axis, [pipeline], "sqrt_kl", name, label="reward model and PPO", linestyle="none", marker="s")
        plot(axis, [sft], "sqrt_kl", name, label="SFT", linestyle="none", marker="x", color="grey")
        for row in by_beta:
            axis.annotate(f"{row['beta']:g}", (row["sqrt_kl"], row[name]), xytext=(4, 4), textcoords="offset points")
        axis.set(title=title, xlabel="square root of the KL to SFT, nats")
    figure.axes[0].legend()


def row_named(rows: list[dict[str, Any]], model: str) -> dict[str, Any]:
    """The first row of a model; empty if there is none."""
    return next((row for row in rows if row["model"] == model), {})


def seen(rows: list[dict[str, Any]]) -> str:
    """Which of the two is better in the same time, and which at the same KL."""
    pipeline, at_kl = row_named(rows, "PPO"), row_named(rows, "DPO at the KL of PPO")
    by_beta = [row for row in rows if row["model"] == "DPO"]
    best = max(by_beta, key=lambda row: row["gold"])
    first = (
        f"{time_of(best['seconds'], pipeline['seconds'])}, DPO with its best β on these prompts, {best['beta']:g}, "
        f"reaches gold {interval(best, 'gold')} at a KL of {best['kl']:.1f} nats and a perplexity of "
        f"{best['perplexity']:.2f}, and the reward model with PPO {interval(pipeline, 'gold')} at "
        f"{pipeline['kl']:.1f} nats and {pipeline['perplexity']:.2f}: {verdict(best)}."
    )
    kls = [row["kl"] for row in by_beta]
    if not at_kl:
        return (
            f"{first} No comparison at equal KL is possible: the KL of PPO is {pipeline['kl']:.1f} nats, and that of "
            f"DPO is between {min(kls):.1f} and {max(kls):.1f}."
        )
    return (
        f"{first} At the KL of PPO, DPO, interpolated between its βs, has gold {interval(at_kl, 'gold')} and a "
        f"perplexity of {at_kl['perplexity']:.2f}: {verdict(at_kl)}."
    )


def time_of(direct: float, pipeline: float) -> str:
    """How the seconds of DPO compare with those of the reward model and PPO, in words."""
    factor, both = direct / pipeline, f"{direct:.0f} seconds against {pipeline:.0f}"
    same = 1 / SAME_TIME <= factor <= SAME_TIME
    return f"In the same time ({both})" if same else f"In {factor:.1f} times the time ({both})"


def verdict(row: dict[str, Any]) -> str:
    """Whether the gold of DPO differs from that of PPO, by the interval of the difference."""
    if row["gain_low"] > 0:
        return f"DPO is better, by {interval(row, 'gain')}"
    if row["gain_high"] < 0:
        return f"DPO is worse, by {interval(row, 'gain')}"
    return f"no clear difference, {interval(row, 'gain')}"
