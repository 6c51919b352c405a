"""Whether more rankings would help a reward model: its accuracy after learning from a quarter, a half, all of them."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from rlhf.evaluate import Estimate, ratio_estimate

DIVISORS = (4, 2)  # of the rankings: each quarter, each half
FARTHEST = 100  # times the present number of rankings; beyond it the extrapolation is not told
CHANCE = 0.5
Counts = tuple[Tensor, Tensor]  # correct pairs and pairs of each test ranking, see rlhf.reward.pair_accuracy


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


def in_words(points: Sequence[Point]) -> list[str]:
    """The curve and what follows from it, as lines; `points` end with that of all rankings."""
    listed = ", ".join(f"{point.accuracy} from {point.rankings:,}" for point in points)
    lines = [f"learning curve: accuracy {listed} rankings"]
    if points[-1].accuracy.low > CHANCE:
        return lines
    if needed := more_needed(points):
        advice = f"about {needed:,} more rankings may bring its interval above it, if it goes on rising like this"
    elif len(points) > 1:
        advice = "can't tell how many more rankings would help, because it does not rise clearly with their number"
    else:
        advice = "can't tell how many more rankings would help: there are too few to train on parts of them"
    return [*lines, f"the accuracy is not above chance, {CHANCE}: {advice}"]
