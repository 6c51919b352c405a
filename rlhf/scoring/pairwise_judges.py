"""Calls of a pairwise judge: a function `judge(prompts, a, b)` that says how probably each `a` is better than `b`.

A language model as a judge favours the answer that it reads first (arXiv 2306.05685, section 3.3). So each pair is
judged in both orders.
"""

import copy
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf import InputError
from rlhf.engine import on_main
from rlhf.rows import Text
from rlhf.run.isolation import errors_of, isolated, name_of
from rlhf.scoring.function_calls import awaited

Judge = Callable[..., Any]


@dataclass(frozen=True)
class Verdicts:
    """The probabilities (B,) that the first of two answers is better, as judged when it is shown first, and second."""

    shown_first: np.ndarray
    shown_second: np.ndarray

    @property
    def preferences(self) -> np.ndarray:
        """The mean over both orders, (B,)."""
        return (self.shown_first + self.shown_second) / 2

    @property
    def disagreements(self) -> np.ndarray:
        """Whether the verdict (better, worse or a tie) depends on the order, (B,)."""
        return np.sign(self.shown_first - 0.5) != np.sign(self.shown_second - 0.5)


def judge_pairs(
    judge: Judge,
    prompts: Sequence[Text],
    answers: Sequence[str],
    others: Sequence[str],
    show: Callable[[str], None] = lambda text: None,
) -> Verdicts:
    """The judge's verdicts on `answers` against `others`, from one call for each order. A coroutine is awaited.

    The judge gets copies of the lists, by position. `show` gets what it prints. Of several processes, the main one calls
    it. Raises InputError if the judge raises an error, calls exit, or does not return a probability for each pair.
    """
    first, second = on_main(
        lambda: [_probabilities(judge, prompts, *order, show) for order in ((answers, others), (others, answers))]
    )
    return Verdicts(np.array(first), 1 - np.array(second))


def _probabilities(
    judge: Judge, prompts: Sequence[Text], a: Sequence[str], b: Sequence[str], show: Callable[[str], None]
) -> list[float]:
    """What the judge returns for each pair, as numbers from 0 to 1."""
    # the same texts give the same random numbers
    seed = zlib.crc32(repr((list(a), list(b))).encode("utf-8", "surrogatepass"))
    with isolated(seed, show):
        with errors_of(judge):
            result = judge(copy.deepcopy(list(prompts)), list(a), list(b))
        result = awaited(judge, result)
        with errors_of(judge):
            values = _numbers(judge, result)
    if len(values) != len(prompts):
        raise InputError(f"{name_of(judge)} returned {len(values)} preferences for {len(prompts)} pairs")
    if wrong := [value for value in values if not 0 <= value <= 1]:
        raise InputError(
            f"{name_of(judge)} returned {wrong[0]:g}; it must return a probability, from 0 to 1, for each pair"
        )
    return values


def _numbers(judge: Judge, result: Any) -> list[float]:
    try:
        return [float(value) for value in result]
    except (TypeError, ValueError) as error:
        message = f"{name_of(judge)} returned {result!r:.80}; it must return a probability, from 0 to 1, for each pair"
        raise InputError(message) from error
