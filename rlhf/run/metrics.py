"""Metrics as weighted means over tokens, responses and processes, unbiased by padding and uneven batches."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rlhf import InputError, ppo
from rlhf.engine import gathered
from rlhf.rollout import Rollout
from rlhf.scoring import RewardFunctions

if TYPE_CHECKING:
    from rlhf.trainer import Experience, PPOTrainer


class Meter:
    """Accumulates weighted means, and quantiles, of named quantities over micro-batches and processes."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}
        self.numbers: dict[str, list[Tensor]] = {}

    def add(self, name: str, mean: Tensor, weight: Tensor) -> None:
        """Adds one part of a quantity: its mean, and its weight, the number of tokens or responses that it averages."""
        part = torch.stack([mean.detach().double() * weight, weight.double()])
        self.parts.setdefault(name, []).append(part)

    def add_numbers(self, name: str, numbers: Tensor) -> None:
        """Adds numbers (S,), of which the result has mean and quantiles."""
        self.numbers.setdefault(name, []).append(numbers.double())

    def extend(self, other: "Meter") -> None:
        """Adds all parts of another meter to this one, and its numbers under names that this one does not have yet."""
        for name, parts in other.parts.items():
            self.parts.setdefault(name, []).extend(parts)
        self.numbers = {**other.numbers, **self.numbers}

    def means(self) -> dict[str, float]:
        """The mean of each quantity over all processes; quantities with a total weight of 0 are left out.

        Of what `add_numbers` added, they are `<name>_mean`, and the 1st and the 99th percentile, `_p01` and `_p99`.
        """
        own = {name: torch.stack(parts).sum(dim=0).tolist() for name, parts in self.parts.items()}
        means = {}
        for name, sums in _by_name(gathered([own])).items():
            value, weight = (sum(column, -0.0) for column in zip(*sums, strict=True))  # -0.0 stays
            if weight > 0:
                means[name] = value / weight
        own = {name: torch.cat(parts).tolist() for name, parts in self.numbers.items()}
        for name, lists in _by_name(gathered([own])).items():
            if numbers := [number for part in lists for number in part]:
                low, high = np.quantile(numbers, (0.01, 0.99)).tolist()
                means |= {f"{name}_mean": float(np.mean(numbers)), f"{name}_p01": low, f"{name}_p99": high}
        return means


def _by_name(parts: list[dict[str, list[float]]]) -> dict[str, list[list[float]]]:
    """What the processes hold under each name; a process without a row of a kind lacks its names."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [part[name] for part in parts if name in part] for name in names}


# names beside those of the metrics in a line of the log
TAKEN = ("step", "episodes_per_second", "ratio_mean", "ratio_p01", "ratio_p99")


def add_logged(meter: Meter, logged: Mapping[str, Tensor], device: torch.device) -> None:
    """Adds what reward functions log, the mean of the finite numbers of each vector, to `meter`.

    Raises InputError for the name of another metric.
    """
    for name in logged:
        if name in meter.parts or name in TAKEN:
            raise InputError(f"log_metric: {name} is a metric of PPO; choose another name")
        numbers = logged[name].double()
        numbers = numbers[numbers.isfinite()]
        count = torch.tensor(len(numbers), device=device)
        meter.add(name, numbers.sum() / count.clamp(min=1), count)


def add_rollout_metrics(meter: Meter, rollout: Rollout, rewards: Tensor, gold: Tensor | None) -> None:
    """Adds the metrics of a rollout to `meter`.

    `rewards` is (B, T); `gold` (B,) is NaN where true quality is unknown.
    """
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


def step_metrics(trainer: "PPOTrainer", batch: "Experience", rewards: Tensor, meter: Meter) -> dict[str, float]:
    """All metrics of a step by name: those of its updates, which `meter` holds, and those of its rollout."""
    gold, device = trainer.gold, batch.mask.device
    add_rollout_metrics(meter, batch, rewards, None if gold is None else gold(batch))
    responses = torch.tensor(len(batch.mask), device=device)
    if trainer.value_model is not None:
        explained = ppo.explained_variance(batch.values, batch.returns, batch.mask)
        meter.add("explained_variance", explained, responses)
    meter.add("kl_coef", torch.tensor(trainer.kl_coef), responses)
    meter.add("learning_rate", torch.tensor(trainer.scheduler.get_last_lr()[0]), responses)
    if trainer.functions is not None:
        add_logged(meter, trainer.functions.logged, device)
    if isinstance(gold, RewardFunctions):
        criteria = {name: numbers for name, numbers in gold.logged.items() if name.startswith("gold/")}
        add_logged(meter, criteria, device)
    return meter.means()
