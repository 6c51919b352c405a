"""PPO on scores that are not normalised, and with value heads that can't express the targets.

The scores of the reward model have mean 0 on demonstrations and standard deviation 1. Here they are multiplied and
shifted. The value model starts from the reward model with its normalised scores, as a new one would start at 0.
"""

import math
from typing import Any

import numpy as np

from rlhf.rows import read_jsonl
from stages.common.ppo_log import LOG
from stages.experiments.output import interval
from stages.experiments.results import estimate, evaluations, row_of
from stages.experiments.variants import SEEDS, SHORT, Runs, Variant, ppo

QUESTION = "What do scores without normalisation do to the value model and to PPO?"
PAPER = "InstructGPT, section 3.5; Andrychowicz et al., arXiv 2006.05990, section 3.3"
LOOK = "the explained variance, which stays low where the value model can't reach its targets, beside gold."
CHANGE = "SCALE and SHIFT in `stages/experiments/normalisation.py`."
PAGE = "paper-experiments.md"

SCALE, SHIFT = 10.0, 20.0
KL_COEF, MISSING_EOS = 0.12, 1.0  # of the recipe tiny
RAW = {
    "reward_model_weight": SCALE,
    "reward_functions": "stages.experiments.faults.shift:one",
    "reward_weights": SHIFT,
}
# the same objective as with normalised scores, times SCALE
SAME = {**RAW, "kl_coef": SCALE * KL_COEF, "missing_eos_penalty": SCALE * MISSING_EOS}
NORMALISED, UNNORMALISED, FAIR = "normalised", f"× {SCALE:g} + {SHIFT:g}", f"× {SCALE:g} + {SHIFT:g}, β × {SCALE:g}"
SETTINGS: dict[str, dict[str, Any]] = {
    NORMALISED: {},
    UNNORMALISED: RAW,
    FAIR: SAME,
    f"{FAIR}, rewards whitened": {**SAME, "whiten_rewards": True},
    f"{FAIR}, advantages not whitened": {**SAME, "whiten_advantages": False},
    "normalised, sigmoid at the value head": {"module": "experiments.faults.sigmoid_values"},
    "normalised, ReLU at the value head": {"module": "experiments.faults.relu_values"},
}


def setting(options: dict[str, Any]) -> list[Variant]:
    """PPO with these options, one variant for each seed."""
    return [ppo(**options, seed=seed) for seed in SEEDS]


def variants() -> list[Variant]:
    """PPO with each setting."""
    return [v for options in SETTINGS.values() for v in setting(options)]


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row for each setting and evaluation, with gold, KL, and the explained variance and the error of the values.

    The last two are means over the steps since the evaluation before. `difference`, after the last step, is the gold
    minus that of normalised scores.
    """
    rows, own = [], np.empty(0)
    for name, options in SETTINGS.items():
        results = [runs.result(v) for v in setting(options)]
        points = [evaluations(result) for result in results]
        logs = [{row["step"]: row for _, row in read_jsonl(result / LOG)} for result in results]
        for number, (step, before) in enumerate(_steps(points[0])):
            gold = np.array([of_seed[number]["gold"] for of_seed in points], dtype=float)
            kl = float(np.mean([of_seed[number]["kl"] for of_seed in points]))
            entries: dict[str, Any] = {"gold": estimate(gold), "kl": kl}
            if step:
                entries |= of_values([log[s] for log in logs for s in range(before + 1, step + 1)], options)
            rows.append(row_of(setting=name, step=step, **entries))
        if name == NORMALISED:
            own = gold
        else:
            rows[-1] |= row_of(difference=estimate(gold, own))
    return rows


def of_values(steps: list[dict[str, Any]], options: dict[str, Any]) -> dict[str, float]:
    """The mean explained variance, which a constant error does not change, and `value_error`, which has it.

    The error is the root of the mean square, in standard deviations of the reward model's scores. It is missing where
    rewards are whitened, because the values then have another unit.
    """
    numbers = {"explained_variance": float(np.mean([step["explained_variance"] for step in steps]))}
    if not options.get("whiten_rewards"):
        square = 2 * float(np.mean([step["vf_loss"] for step in steps]))  # the loss is half of it, see rlhf.ppo
        numbers["value_error"] = math.sqrt(square) / options.get("reward_model_weight", 1.0)
    return numbers


def _steps(points: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """The step of each evaluation, and that of the evaluation before it; of the first, 0 and 0."""
    steps = [point["step"] for point in points]
    return list(zip(steps, [0, *steps], strict=False))


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """Gold and the explained variance by step, a colour for each setting."""
    left, right = figure.subplots(1, 2)
    for name in SETTINGS:
        own = [row for row in rows if row["setting"] == name]
        left.plot([row["step"] for row in own], [row["gold"] for row in own], marker="o", markersize=3, label=name)
        known = [row for row in own if "explained_variance" in row]
        right.plot(
            [row["step"] for row in known], [row["explained_variance"] for row in known], marker="o", markersize=3
        )
    left.set(title="gold", xlabel="steps of PPO")
    right.set(title="explained variance of the values", xlabel="steps of PPO", ylim=(-1, 1))
    figure.legend(loc="outside lower center", ncols=3, fontsize=7)


def seen(rows: list[dict[str, Any]]) -> str:
    """How each setting changes gold, and how much of the returns the values explain."""
    last = {row["setting"]: row for row in rows}  # a later row of a setting replaces an earlier one
    recipe, others = last[NORMALISED], [row for row in last.values() if "difference" in row]
    lowered = [row for row in others if row["difference_high"] < 0]
    raised = [row for row in others if row["difference_low"] > 0]
    same = [row for row in others if row["difference_low"] <= 0 <= row["difference_high"]]

    def listed(chosen: list[dict[str, Any]]) -> str:
        return "; ".join(f"{row['setting']} ({interval(row, 'difference')})" for row in chosen) or "nothing"

    values = "; ".join(_values(row) for row in last.values())
    return (
        f"Gold, {recipe['gold']:.2f} with normalised scores, is lowered by: {listed(lowered)}; raised by: "
        f"{listed(raised)}; not clearly changed by: {listed(same)}. Over the last {SHORT['eval_steps']} steps "
        f"the values explain this share of the variance of the returns, and are off by so many deviations of the "
        f"score: {values}. "
        f"The KL is {recipe['kl']:.1f} nats with normalised scores, {last[UNNORMALISED]['kl']:.1f} with {UNNORMALISED}."
    )


def _values(row: dict[str, Any]) -> str:
    error = f", {row['value_error']:.1f}" if "value_error" in row else ""
    return f"{row['setting']} {row['explained_variance']:.2f}{error}"
