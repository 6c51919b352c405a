"""A reward function that is the same for each completion: it shifts the scores of a reward model beside it."""

from typing import Any


def one(completions: list[Any], **_: Any) -> list[float]:
    """1 for each completion; its weight is the shift."""
    return [1.0] * len(completions)
