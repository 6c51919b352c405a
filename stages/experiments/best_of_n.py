"""Best-of-n against PPO at the same KL."""

from typing import Any

import numpy as np

from rlhf.evaluate import best_of_n_kl
from stages.common.run import Run
from stages.experiments import frontier
from stages.experiments.answers import best_of, sample_pool
from stages.experiments.output import plot
from stages.experiments.results import estimate, last, option_of, row_of, sqrt_kl
from stages.experiments.variants import Runs, Variant

QUESTION = "Is PPO better than the best of n answers of the SFT model, at the same KL?"
PAPER = "WebGPT, arXiv 2112.09332, section 5.2; Gao et al., arXiv 2210.10760"
LOOK = "which curve is higher at the same KL, for the score and for gold."
CHANGE = "NUMBERS in `stages/experiments/best_of_n.py`."

NUMBERS = (1, 2, 4, 8, 16, 32, 64, 128)
BETAS = frontier.BETAS[1:]


def variants() -> list[Variant]:
    """PPO with several betas: those of the experiment `frontier`."""
    return [v for beta in BETAS for v in frontier.setting(beta)]


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row for each n, with the exact KL of best-of-n, and for each beta of PPO: score and gold."""
    pool = sample_pool(runs, max(NUMBERS))
    scores, rows = pool.scores(Run(runs.base).find("reward")), []
    for n in NUMBERS:
        values = {"score": best_of(scores, scores, n), "gold": best_of(scores, pool.gold, n)}
        kl = best_of_n_kl(n)
        numbers = {name: estimate(value[None]) for name, value in values.items()}
        rows.append(row_of(method="best of n", n=n, kl=kl, sqrt_kl=sqrt_kl(kl), **numbers))
    for beta in BETAS:
        kl = float(np.mean(last(runs, frontier.setting(beta), "kl")))
        numbers = {name: estimate(last(runs, frontier.setting(beta), name)) for name in ("score", "gold")}
        value = option_of(runs, frontier.setting(beta)[0], "kl_coef")
        rows.append(row_of(method="PPO", beta=value, kl=kl, sqrt_kl=sqrt_kl(kl), **numbers))
    return rows


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """Score and gold against the square root of the KL, a curve for each method."""
    for axis, name in zip(figure.subplots(1, 2), ("score", "gold"), strict=True):
        for method in ("best of n", "PPO"):
            curve = sorted((row for row in rows if row["method"] == method), key=lambda row: row["sqrt_kl"])
            plot(axis, curve, "sqrt_kl", name, label=method)
        axis.set(title=name, xlabel="square root of the KL to SFT, nats")
        axis.legend()


def seen(rows: list[dict[str, Any]]) -> str:
    """Gold of both methods at the KL of PPO's best beta."""
    curve = [row for row in rows if row["method"] == "best of n"]
    best = max((row for row in rows if row["method"] == "PPO"), key=lambda row: row["gold"])
    kls = [row["kl"] for row in curve]
    if best["kl"] > max(kls):
        other, at = curve[-1]["gold"], f"even n = {curve[-1]['n']:.0f}, with a KL of {max(kls):.2f} nats,"
    else:
        other, at = float(np.interp(best["kl"], kls, [row["gold"] for row in curve])), "best-of-n at the same KL"
    score = float(np.interp(best["kl"], kls, [row["score"] for row in curve]))
    if best["gold_low"] > other:
        verdict = "PPO is better"
    elif best["gold_high"] < other:
        verdict = "best-of-n is better"
    else:
        verdict = "the difference is within PPO's interval"
    return (
        f"PPO reaches its highest gold, {best['gold']:.2f} [{best['gold_low']:.2f}, {best['gold_high']:.2f}], at a KL of "
        f"{best['kl']:.2f} nats (β {best['beta']:g}); {at} has {other:.2f}: {verdict}. "
        f"The learned score at this KL is {best['score']:.2f} with PPO and {score:.2f} with best-of-n."
    )
