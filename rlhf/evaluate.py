"""Metrics of models: win rate, KL and perplexity; bootstrap confidence intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rlhf.engine import text_logprobs, to_device, total
from rlhf.tokens import own_batches, pad


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
