"""The pretraining mix: gold against the perplexity of pretraining text, for several gammas, and for several betas."""

from typing import Any

import numpy as np

from stages.experiments.output import interval, plot
from stages.experiments.results import estimate, evaluations, last, option_of, perplexities, perplexity_of, row_of
from stages.experiments.variants import SEEDS, Runs, Variant, ppo

QUESTION = "Does the pretraining mix undo what SFT forgot, and can a larger KL penalty do the same?"
PAPER = "InstructGPT, section 4.2 and appendix E.6"
LOOK = "how far each curve goes to the left, to the perplexity of the pretrained model, and what gold that costs."
CHANGE = "GAMMAS in `stages/experiments/mix.py`."

GAMMAS = (0.0, 0.1, None, 2.0)  # None: that of the recipe
BETAS = (0.25, 0.5, 1.0)  # without the mix
RECOVERED = 0.8


def setting(gamma: float | None, beta: float | None = None) -> list[Variant]:
    """PPO with this weight of the mix and of the KL penalty, by default the recipe's; one variant for each seed."""
    if gamma is None:
        return [ppo(seed=seed) for seed in SEEDS]
    if beta is None:
        return [ppo(ptx_coef=gamma, seed=seed) for seed in SEEDS]
    return [ppo(ptx_coef=gamma, kl_coef=beta, seed=seed) for seed in SEEDS]


def settings() -> list[tuple[float | None, float | None]]:
    """(gamma, beta) of each setting."""
    return [*((gamma, None) for gamma in GAMMAS), *((0.0, beta) for beta in BETAS)]


def variants() -> list[Variant]:
    """PPO with each gamma; and without the mix with each beta."""
    return [v for gamma, beta in settings() for v in setting(gamma, beta)]


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row for each setting, and one for the pretrained model and SFT: gold, and the perplexity of held-out text."""
    rows = [row_of(model="pretrained", perplexity=perplexity_of(runs, "pretrain"))]
    first = setting(0.0)
    sft = {"gold": estimate(first_gold(runs, first)), "perplexity": float(perplexities(runs, first, 0).mean())}
    rows.append(row_of(model="SFT", **sft))
    plain = last(runs, first, "gold")
    for gamma, beta in settings():
        chosen = setting(gamma, beta)
        entries = {"gold": estimate(last(runs, chosen, "gold")), "kl": estimate(last(runs, chosen, "kl"))}
        lost = sft["perplexity"] - rows[0]["perplexity"]
        own = perplexities(runs, chosen)
        entries |= {"perplexity": estimate(own), "recovered": estimate((sft["perplexity"] - own) / lost)}
        entries["gold_loss"] = estimate(plain, last(runs, chosen, "gold"))
        swept = {"beta": "recipe"} if beta is None else {"beta": beta}
        rows.append(row_of(model="PPO", gamma=option_of(runs, chosen[0], "ptx_coef"), **swept, **entries))
    return rows


def first_gold(runs: Runs, variants: list[Variant]) -> Any:
    """Gold of the SFT model's answers, (variants, prompts)."""
    return np.array([evaluations(runs.result(v))[0]["gold"] for v in variants], dtype=float)


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """Gold against perplexity: a curve over gamma, and a curve over beta without the mix."""
    axis = figure.subplots()
    by_gamma = [row for row in rows if row.get("beta") == "recipe"]
    by_beta = [row for row in rows if isinstance(row.get("beta"), float)]
    plot(axis, by_gamma, "perplexity", "gold", label="γ swept")
    plot(axis, [by_gamma[0], *by_beta], "perplexity", "gold", label="β swept, without the mix")
    for row, text in [(row, f"γ {row['gamma']:g}") for row in by_gamma] + [(r, f"β {r['beta']:g}") for r in by_beta]:
        axis.annotate(text, (row["perplexity"], row["gold"]), xytext=(4, 4), textcoords="offset points")
    for row, colour in zip(rows[:2], ("green", "grey"), strict=True):
        axis.axvline(row["perplexity"], color=colour, linestyle=":", label=row["model"])
    axis.set(xlabel="perplexity of held-out pretraining text", ylabel="gold (true quality)")
    axis.legend()


def seen(rows: list[dict[str, Any]]) -> str:
    """How much of the lost perplexity the best gamma and the best beta recover, and the gold that each costs."""
    pretrained, sft, *swept = rows
    gammas = [row for row in swept if row["beta"] == "recipe"]
    mix = max(gammas, key=lambda row: row["recovered"])
    enough = next((row for row in gammas if row["recovered"] >= RECOVERED), mix)
    beta = max((row for row in swept if row["beta"] != "recipe"), key=lambda row: row["recovered"])
    if sft["perplexity"] <= pretrained["perplexity"]:
        return (
            f"The perplexity is {pretrained['perplexity']:.2f} before SFT and {sft['perplexity']:.2f} after it: SFT forgot "
            "nothing that the mix could recover. The run cannot answer the question."
        )
    return (
        f"SFT raises the perplexity from {pretrained['perplexity']:.2f} to {sft['perplexity']:.2f}; PPO with γ = "
        f"{enough['gamma']:g} recovers {interval(enough, 'recovered')} of that, and loses {interval(enough, 'gold_loss')} "
        f"of gold against γ = 0, {'a' if enough['gold_loss_low'] > 0 else 'no'} clear loss. "
        f"β pulls to the SFT model, so it can only keep what SFT left: without the mix the best of the larger β, "
        f"{beta['beta']:g}, recovers {interval(beta, 'recovered')} and loses "
        f"{interval(beta, 'gold_loss')} of gold: {_verdict(_succeeds(enough), _succeeds(beta))}."
    )


def _succeeds(row: dict[str, Any]) -> bool:
    """Whether a setting recovers RECOVERED of the lost perplexity without a clear loss of gold."""
    return row["recovered"] >= RECOVERED and row["gold_loss_low"] <= 0


def _verdict(mix: bool, beta: bool) -> str:
    """What it means that the mix and beta succeed or fail, in words."""
    if mix:
        return "β does the same" if beta else "β does not do what the mix does"
    return "β does it, the mix does not" if beta else f"neither recovers {RECOVERED:g} without a clear loss of gold"
