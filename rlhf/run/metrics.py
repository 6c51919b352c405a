"""Metrics as weighted means over tokens, responses and processes: padding and uneven batches do not bias them."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlhf import ppo
from rlhf.rollout import Rollout


class Meter:
    """Weighted means of quantities that are measured in parts, over all processes."""

    def __init__(self, total: Callable[[Tensor], Tensor]):
        """`total` sums a tensor over all processes."""
        self.total = total
        self.parts: dict[str, list[Tensor]] = {}

    def add(self, name: str, mean: Tensor, weight: Tensor) -> None:
        """Adds a part: its mean, and its weight, the number of tokens or responses that the mean is over."""
        part = torch.stack([mean.detach().double() * weight, weight.double()])
        self.parts.setdefault(name, []).append(part)

    def extend(self, other: "Meter") -> None:
        """Adds all parts of another meter."""
        for name, parts in other.parts.items():
            self.parts.setdefault(name, []).extend(parts)

    def means(self) -> dict[str, float]:
        """The mean of each quantity whose total weight is not 0."""
        sums = {name: self.total(torch.stack(parts).sum(dim=0)) for name, parts in self.parts.items()}
        return {name: float(value / weight) for name, (value, weight) in sums.items() if weight > 0}


def add_rollout_metrics(meter: Meter, rollout: Rollout, rewards: Tensor, gold: Tensor | None) -> None:
    """Adds what a step's rollout shows. `rewards` is (B, T); `gold` (B,) is NaN where true quality is unknown."""
    responses = torch.tensor(len(rollout.mask), device=rollout.mask.device)
    meter.add("score", rollout.scores.mean(), responses)
    if gold is not None:
        known = ~gold.isnan()
        meter.add("gold", gold.nan_to_num().sum() / known.sum().clamp(min=1), known.sum())
    meter.add("kl", rollout.kls.mean(), responses)
    meter.add("reward", rewards.sum(dim=1).mean(), responses)
    meter.add("entropy", ppo.masked_mean(rollout.entropies, rollout.mask), rollout.mask.sum())
    meter.add("length", rollout.lengths.float().mean(), responses)
    meter.add("ended", rollout.finished.float().mean(), responses)
