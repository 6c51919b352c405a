"""Metrics of models: win rate, KL and perplexity; bootstrap confidence intervals; learning curves."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlhf.engine import text_logprobs, to_device, total
from rlhf.tokens import own_batches, pad

DIVISORS = (4, 2)  # of the rankings in a learning curve: each quarter, each half
FARTHEST = 100  # times the present number of rankings; beyond it the extrapolation is not told
CHANCE = 0.5
Counts = tuple[Tensor, Tensor]  # correct pairs and pairs of each test ranking, see rlhf.reward.pair_accuracy


@dataclass(frozen=True)
class Estimate:
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def named(self, name: str) -> dict[str, float]:
        """The estimate as three metrics: `name`, `name_low`, `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def ratio_estimate(parts: Sequence[float], wholes: Sequence[float] | None = None, draws: int = 2000) -> Estimate:
    """sum(parts) / sum(wholes), or mean(parts) if `wholes` is None, with a percentile-bootstrap interval.

    `parts` and `wholes` have one entry per prompt. The bootstrap resamples prompts, because the pairs of one prompt are
    not independent of each other.
    """
    part = np.asarray(parts, dtype=float)
    whole = np.ones_like(part) if wholes is None else np.asarray(wholes, dtype=float)
    rows = np.random.default_rng(0).integers(len(part), size=(draws, len(part)))
    total = whole[rows].sum(axis=1)
    low, high = np.percentile(part[rows].sum(axis=1)[total > 0] / total[total > 0], (2.5, 97.5))
    return Estimate(float(part.sum() / whole.sum()), float(low), float(high))


def mean_over_draws(numbers: np.ndarray, draws: int = 2000) -> Estimate:
    """The mean of numbers (draws, prompts), of answers to prompts that were each asked with several random draws.

    The percentile bootstrap resamples prompts and, for each of them on its own, its draws.
    """
    rng = np.random.default_rng(0)
    times, count = numbers.shape
    means = []
    for _ in range(draws):
        prompts = rng.integers(count, size=count)
        means.append(numbers[rng.integers(times, size=(times, count)), prompts].mean())
    low, high = np.percentile(means, (2.5, 97.5))
    return Estimate(float(numbers.mean()), float(low), float(high))


def without_nan(numbers: Sequence[float]) -> np.ndarray:
    """The numbers that are not NaN."""
    array = np.asarray(numbers, dtype=float)
    return array[~np.isnan(array)]


def win_rate(scores: Sequence[float], others: Sequence[float]) -> Estimate | None:
    """The share of prompts for which `scores` is higher than `others`; a tie counts as half a win.

    Prompts with a NaN are left out. None if no prompt is left.
    """
    difference = without_nan(np.asarray(scores, dtype=float) - np.asarray(others, dtype=float))
    if not len(difference):
        return None
    return ratio_estimate((difference > 0) + 0.5 * (difference == 0))


def preferences(scores: Sequence[float], others: Sequence[float]) -> np.ndarray:
    """1 where `scores` is higher than `others`, 0 where it is lower, 0.5 for a tie, and NaN for a NaN, (B,)."""
    return (np.sign(np.asarray(scores, dtype=float) - np.asarray(others, dtype=float)) + 1) / 2


def tie_rate(preference: Sequence[float]) -> Estimate | None:
    """The share of prompts with preference 0.5. NaN is left out; None if no prompt is left."""
    known = without_nan(preference)
    return ratio_estimate(known == 0.5) if len(known) else None


def length_controlled_win_rate(preference: Sequence[float], length_difference: Sequence[float]) -> Estimate | None:
    """The win rate that a logistic regression predicts for two answers of the same length.

    preference ~ sigmoid(intercept + slope * tanh(difference / its standard deviation)), so the result is
    sigmoid(intercept). AlpacaEval 2 (arXiv 2404.04475), without its terms for the model and the prompt. The
    slope has a unit Gaussian prior, because its estimate would be infinite if length alone decides. NaN is left out. None
    if no prompt is left, or if all differences are the same and not 0. Percentile-bootstrap interval over prompts.
    """
    known = ~np.isnan(np.asarray(preference, dtype=float))
    wins, difference = (np.asarray(values, dtype=float)[known] for values in (preference, length_difference))
    if not len(wins) or (difference.any() and not difference.std()):
        return None
    length = np.tanh(difference / (difference.std() or 1.0))
    rng, share = np.random.default_rng(0), np.full(len(wins), 1 / len(wins))
    # 1000 resamples, in parts for less memory
    draws = [_rate_at_equal_length(wins, length, rng.multinomial(len(wins), share, size=50)) for _ in range(20)]
    low, high = np.percentile(np.concatenate(draws), (2.5, 97.5))
    return Estimate(float(_rate_at_equal_length(wins, length, np.ones((1, len(wins))))[0]), float(low), float(high))


def _rate_at_equal_length(wins: np.ndarray, length: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """sigmoid(intercept), (draws,), for each row of `weights` (draws, B) of the prompts, by Newton's method."""
    mean = (weights * wins).sum(axis=1) / weights.sum(axis=1)
    one_sided = (mean == 0) | (mean == 1)  # the intercept would be infinite
    start = np.where(one_sided, 0.5, mean)
    intercept, slope = np.log(start / (1 - start)), np.zeros(len(weights))
    for _ in range(30):
        expected = 1 / (1 + np.exp(-intercept[:, None] - slope[:, None] * length))
        error, spread = weights * (wins - expected), weights * expected * (1 - expected)
        a, b, c = spread.sum(axis=1), (spread * length).sum(axis=1), (spread * length**2).sum(axis=1) + 1
        up, right = error.sum(axis=1), (error * length).sum(axis=1) - slope
        steps = (c * up - b * right) / (a * c - b * b), (a * right - b * up) / (a * c - b * b)
        # a whole step from far away could overshoot
        intercept, slope = intercept + np.clip(steps[0], -1, 1), slope + np.clip(steps[1], -1, 1)
        if np.abs(steps).max(where=~one_sided, initial=0.0) < 1e-9:
            break
    return np.where(one_sided, mean, 1 / (1 + np.exp(-intercept)))


def best_of_n_kl(n: int) -> float:
    """The KL, in nats, between the best of n samples and one: ln n - (n - 1) / n (arXiv 2009.01325, appendix G.3)."""
    return math.log(n) - (n - 1) / n


def perplexity(model: nn.Module, documents: Sequence[list[int]], pad_id: int) -> float:
    """exp of the mean negative log-likelihood (nats) of all tokens, eos included, but the first of each document."""
    logprobs = sequence_logprobs(model, documents, [1] * len(documents), pad_id)
    return math.exp(-logprobs.sum() / sum(len(ids) - 1 for ids in documents))


@torch.no_grad()
def sequence_logprobs(
    model: nn.Module,
    sequences: Sequence[list[int]],
    starts: Sequence[int],
    pad_id: int,
    temperature: float = 1.0,
    batch_size: int = 32,
) -> np.ndarray:
    """The log-probability (B,), in nats, of each sequence's tokens from its position in `starts` (at least 1) on."""
    sums = torch.zeros(len(sequences), dtype=torch.float64)
    device = next(model.parameters()).device
    for rows in own_batches(sequences, batch_size):
        input_ids, attention_mask = (to_device(t, device) for t in pad([sequences[i] for i in rows], pad_id, "right"))
        logprobs, mask = text_logprobs(model, input_ids, attention_mask, temperature)
        first = torch.tensor([starts[i] for i in rows], device=device)
        mask &= torch.arange(1, input_ids.shape[1], device=device) >= first[:, None]
        sums[rows] = logprobs.where(mask, 0.0).double().sum(dim=1).cpu()
    return total(sums).numpy()


# --- whether a reward model would gain from more rankings -------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """The accuracy on held-out rankings after training on a number of rankings."""

    rankings: int
    accuracy: Estimate

    def as_dict(self) -> dict[str, Any]:
        """The point as it is stored in stage.json."""
        return {"rankings": self.rankings, **self.accuracy.named("accuracy")}


def measure_curve(count: int, train_on: Callable[[Sequence[int]], Counts], seed: int) -> list[Point]:
    """The accuracies from each quarter and from each half of `count` rankings; empty if there are fewer than four.

    `train_on` trains a new model on the rankings of these indices and returns its counts. The accuracy of a part is the
    mean over the parts of that size, which have no ranking in common.
    """
    if count < max(DIVISORS):
        return []
    order = random.Random(f"learning curve {seed}").sample(range(count), count)
    points = []
    for divisor in DIVISORS:
        counts = [train_on(order[part::divisor]) for part in range(divisor)]
        correct, pairs = (sum(column[1:], column[0]) for column in zip(*counts, strict=True))
        points.append(Point(count // divisor, ratio_estimate(correct.tolist(), pairs.tolist())))
    return points


def more_needed(points: Sequence[Point]) -> int | None:
    """How many more rankings would bring the lower end of the accuracy's interval above chance.

    Extrapolates the line of least squares of accuracy on log2 of the number of rankings, for an interval as wide as the
    last one. None if the accuracy does not rise, or so slowly that it would take over FARTHEST times the rankings, or
    if there is only one point.
    """
    last = points[-1]
    if len(points) < 2:
        return None
    slope, start = np.polyfit([math.log2(point.rankings) for point in points], [p.accuracy.value for p in points], 1)
    if slope <= 0:
        return None
    target = CHANCE + last.accuracy.value - last.accuracy.low
    doublings = (target - start) / slope - math.log2(last.rankings)
    if not 0 < doublings <= math.log2(FARTHEST):
        return None
    return max(1, round(last.rankings * (2**doublings - 1)))
