"""Over-optimisation: gold against the KL, without a KL penalty, for reward models of three numbers of comparisons."""

import math
from typing import Any

import numpy as np

from rlhf import InputError
from rlhf.evaluate import best_of_n_kl
from stages.common.run import Run, record_of
from stages.experiments.answers import best_of, sample_pool, scores_of_texts
from stages.experiments.output import plot
from stages.experiments.results import evaluations, row_of, sqrt_kl
from stages.experiments.variants import SEEDS, Runs, Variant, ppo, variant

QUESTION = "When does optimising the reward model stop helping, and do more comparisons move that point?"
PAPER = "Gao et al., arXiv 2210.10760"
LOOK = "where gold peaks while the score rises, and the signals that turn before it."
CHANGE = "SIZES in `stages/experiments/overoptimisation.py`."

RANKINGS = 3000  # of the recipe tiny
SIZES = (0.25, 1, 4)  # comparisons, in those of the finished run
NUMBERS = (1, 2, 4, 8, 16, 32, 64)  # n of best-of-n
SIGNALS = ("kl", "length", "entropy", "disagreement")  # what is known without gold
METHODS = ("PPO", "RLOO", "best of n")
# far enough from the SFT model that gold can fall, and slowly, so that evaluations lie on both sides of its peak
SLOWLY = {"learning_rate": 4.5e-4, "lr_scheduler_type": "constant", "eval_steps": 4}


def prepare(runs: Runs) -> None:
    """Raises InputError if the finished run has another number of rankings: the sizes would not be what they are called."""
    path = Run(runs.base).find("comparisons")
    if (count := record_of(path).get("options", {}).get("count")) != RANKINGS:
        raise InputError(
            f"{path} has {count} rankings, and SIZES are parts of {RANKINGS}: change RANKINGS in {__file__}"
        )


def reward_model(size: float) -> Variant | None:
    """The reward model of a size; None for that of the finished run."""
    if size == 1:
        return None
    count = round(size * RANKINGS)
    # prompts for more rankings than the finished run has; its other rows are the same
    data = variant("data", world_prompts=count) if size > 1 else None
    return variant("reward", variant("comparisons", data, count=count))


def second_reward_model() -> Variant:
    """A reward model on the comparisons of the finished run, with another seed."""
    return variant("reward", seed=1)


def setting(method: str, size: float) -> list[Variant]:
    """PPO or RLOO without a KL penalty on a reward model, one variant for each seed."""
    options: dict[str, Any] = {} if method == "PPO" else {"advantage_estimator": "rloo", "num_generations": 4}
    options |= {"kl_coef": 0.0, **SLOWLY}
    return [ppo(reward_model(size), **options, seed=seed) for seed in SEEDS]


def settings() -> list[tuple[str, float]]:
    """(method, size) of each curve of training."""
    return [*(("PPO", size) for size in SIZES), ("RLOO", 1)]


def variants() -> list[Variant]:
    """The reward models, and what is trained on them."""
    models = [model for size in SIZES if (model := reward_model(size))]
    return [*reversed(models), second_reward_model(), *(v for chosen in settings() for v in setting(*chosen))]


# --- the table --------------------------------------------------------------------------------------------------------


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row for each point of each curve, and one for the form that is fitted to the curve."""
    rows = [row for method, size in settings() for row in training_rows(runs, method, size)]
    pool = sample_pool(runs, max(NUMBERS))
    for size in SIZES:
        model = reward_model(size)
        scores = pool.scores(runs.result(model) if model else Run(runs.base).find("reward"))
        for n in NUMBERS:
            values = {"score": best_of(scores, scores, n).mean(), "gold": best_of(scores, pool.gold, n).mean()}
            kl = best_of_n_kl(n)
            numbers = {name: float(value) for name, value in values.items()}
            rows.append(row_of(method="best of n", size=size, n=n, kl=kl, sqrt_kl=sqrt_kl(kl), **numbers))
    for method, size in [*settings(), *(("best of n", size) for size in SIZES)]:
        rows.append(fit(method, size, [row for row in rows if row["method"] == method and row["size"] == size]))
    return rows


def training_rows(runs: Runs, method: str, size: float) -> list[dict[str, Any]]:
    """A row for each evaluation of each seed: score, gold, and the signals that need no gold."""
    rows = []
    for seed, chosen in enumerate(setting(method, size)):
        for point in evaluations(runs.result(chosen)):
            kl, score = (float(np.mean(point[name])) for name in ("kl", "score"))
            entries = {name: float(np.mean(point[name])) for name in ("gold", "length")}
            if "entropy" in point:
                entries["entropy"] = float(point["entropy"])
            if size == 1:
                entries["disagreement"] = disagreement(runs, point["completions"])
            step = point["step"]
            rows.append(
                row_of(
                    method=method, size=size, seed=seed, step=step, kl=kl, sqrt_kl=sqrt_kl(kl), score=score, **entries
                )
            )
    return rows


def disagreement(runs: Runs, texts: list[str]) -> float:
    """The mean absolute difference of the scores of two reward models, which differ in their seed."""
    models = Run(runs.base).find("reward"), runs.result(second_reward_model())
    first, second = (scores_of_texts(runs, model, texts) for model in models)
    return float(np.abs(first - second).mean())


def fit(method: str, size: float, points: list[dict[str, Any]]) -> dict[str, Any]:
    """Gao's form, fitted to all points of a curve, and the KL of its peak; inf if it is beyond the points.

    `peak_kl_low` and `peak_kl_high` are the lowest and the highest peak of forms that are fitted to each seed alone.
    """
    furthest = max(row["sqrt_kl"] for row in points) ** 2

    def peak(alpha: float, beta: float) -> float:
        kl = peak_of(method, alpha, beta)
        return kl if kl <= furthest else math.inf

    start, alpha, beta = coefficients(method, points)
    numbers = {"alpha": alpha, "beta": beta, "start": start, "peak_kl": peak(alpha, beta)}
    if len(seeds := {row.get("seed") for row in points}) > 1:
        alone = [coefficients(method, [row for row in points if row["seed"] == seed]) for seed in seeds]
        peaks = [peak(*form[1:]) for form in alone]
        numbers |= {"peak_kl_low": min(peaks), "peak_kl_high": max(peaks)}
    return row_of(method=method, size=size, fitted=True, **numbers)


def coefficients(method: str, points: list[dict[str, Any]]) -> tuple[float, float, float]:
    """The gold at the SFT model, alpha and beta, by least squares on the gain of gold over the SFT model.

    With d the square root of the KL: d (alpha - beta d) for best-of-n, d (alpha - beta log d) for training.
    """
    start = float(np.mean([row["gold"] for row in points if row["sqrt_kl"] < 1e-6]))
    d, gain = np.array([(row["sqrt_kl"], row["gold"] - start) for row in points if row["sqrt_kl"] > 1e-6]).T
    second = -d * d if method == "best of n" else -d * np.log(d)
    (alpha, beta), *_ = np.linalg.lstsq(np.stack([d, second], axis=1), gain, rcond=None)
    return start, float(alpha), float(beta)


def peak_of(method: str, alpha: float, beta: float) -> float:
    """The KL at which a form is highest: 0 if it only falls, inf if it only rises."""
    if beta <= 0:
        return math.inf if alpha > 0 else 0.0
    root = alpha / (2 * beta) if method == "best of n" else math.exp(min(alpha / beta - 1, 50))
    return max(root, 0.0) ** 2


def fitted(row: dict[str, Any], d: np.ndarray) -> np.ndarray:
    """The gold that the form of a row predicts at square roots of the KL."""
    shape = d if row["method"] == "best of n" else np.log(np.maximum(d, 1e-9))
    return row["start"] + d * (row["alpha"] - row["beta"] * shape)


def turn(values: list[float]) -> int | None:
    """The index of the extremum of a curve that lies outside the range of both ends; None if it has none."""
    curve, low, high = np.array(values), min(values[0], values[-1]), max(values[0], values[-1])
    beyond = np.maximum(curve - high, low - curve)
    return int(beyond.argmax()) if beyond.max() > 0 else None


# --- what the table shows ---------------------------------------------------------------------------------------------


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """Gold against the square root of the KL for each method and size, with the fitted forms and their peaks."""
    for axis, method in zip(figure.subplots(1, 3, sharey=True), METHODS, strict=True):
        for number, size in enumerate(SIZES):
            points = [r for r in rows if r["method"] == method and r["size"] == size and "kl" in r]
            form = next((r for r in rows if r["method"] == method and r["size"] == size and "alpha" in r), None)
            if not points or not form:
                continue
            plot(axis, points, "sqrt_kl", "gold", linestyle="", color=f"C{number}", label=f"{size:g} × comparisons")
            d = np.linspace(0, max(row["sqrt_kl"] for row in points), 100)
            axis.plot(d, fitted(form, d), color=f"C{number}", linewidth=1)
            if form["peak_kl"] ** 0.5 <= d[-1]:
                axis.axvline(form["peak_kl"] ** 0.5, color=f"C{number}", linestyle=":")
        axis.set(title=method, xlabel="square root of the KL, nats")
    figure.axes[0].set_ylabel("gold (true quality)")
    figure.axes[0].legend(fontsize=8)


def curves(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    """A number of PPO's evaluations at the size of the finished run, (seeds, steps)."""
    points = [row for row in rows if row["method"] == "PPO" and row["size"] == 1 and name in row and "step" in row]
    seeds = sorted({row["seed"] for row in points})
    return np.array([[row[name] for row in points if row["seed"] == seed] for seed in seeds])


def turn_of(rows: list[dict[str, Any]], name: str, count: int) -> int | None:
    """Which of `count` evaluations is the turn of a signal, in its mean over seeds.

    None if it has none, if a seed is not beyond both of its ends there, or if the table lacks the signal.
    """
    own = curves(rows, name)
    index = turn(own.mean(axis=0).tolist()) if own.size else None
    if index is None:
        return None
    ends, there = own[:, [0, -1]], own[:, index]
    if not ((there > ends.max(axis=1)).all() or (there < ends.min(axis=1)).all()):
        return None
    # entropy is that of training steps, so it has no value before the first one
    return count - own.shape[1] + index


def seen(rows: list[dict[str, Any]]) -> str:
    """The fitted peaks by size, and the signals that turn before gold."""
    forms = {row["size"]: row for row in rows if "alpha" in row and row["method"] == "PPO"}
    listed = ", ".join(f"{_peak(forms[size])} with {size:g} ×" for size in SIZES)
    first = min(row["kl"] for row in rows if row["method"] == "PPO" and row.get("step"))
    lowest = min(form["peak_kl"] for form in forms.values())
    unseen = f" (a peak below {first:.1f} nats, the first evaluation, is only fitted)" if lowest < first else ""
    gold, score = curves(rows, "gold").mean(axis=0), curves(rows, "score").mean(axis=0)
    if np.argmax(gold) == len(gold) - 1:
        signals = "gold does not fall after its highest, so no signal can warn of it"
    else:
        early = [n for n in SIGNALS if (i := turn_of(rows, n, len(gold))) is not None and i < np.argmax(gold)]
        turned = f"{', '.join(early)} turn{'s' * (len(early) == 1)}" if early else "none turns"
        signals = f"of the signals {', '.join(SIGNALS)}, {turned} before gold does"
    return (
        f"The form fitted to PPO's gold over the KL peaks {listed} the comparisons{unseen}: {_moves(forms)}, with one "
        f"reward model of each size. "
        f"At the run's own size gold goes {gold[0]:.2f}, {max(gold):.2f} at its highest, {gold[-1]:.2f} at the end, while "
        f"the score goes from {score[0]:.2f} to {score[-1]:.2f}; {signals}."
    )


def _peak(form: dict[str, Any]) -> str:
    """Where a form peaks, with the range over seeds, in words."""
    where = f"at {form['peak_kl']:.1f} nats" if form["peak_kl"] < math.inf else "beyond the range"
    low, high = form.get("peak_kl_low", 0.0), form.get("peak_kl_high")
    if high is None:
        return where
    if low == math.inf:
        return f"{where} (with each seed)"
    return f"{where} (seeds: {low:.1f} to {'beyond' if high == math.inf else f'{high:.1f}'})"


def _moves(forms: dict[float, dict[str, Any]]) -> str:
    """Whether the peak moves out from the smallest to the largest number of comparisons, in words."""
    peaks = [forms[size]["peak_kl"] for size in SIZES]
    if peaks != sorted(peaks) or peaks[0] == peaks[-1]:
        return "more comparisons do not move the peak out steadily"
    smallest, largest = forms[SIZES[0]], forms[SIZES[-1]]
    apart = smallest.get("peak_kl_high", peaks[0]) < largest.get("peak_kl_low", peaks[-1])
    return f"more comparisons move the peak out{'' if apart else ', but the seeds of the ends overlap'}"
