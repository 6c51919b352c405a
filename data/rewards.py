"""Reward functions that check answers against a column of the prompts."""

import re
from decimal import Decimal
from typing import Any

# 1,234.50 is one number. A hyphen between digits is not a sign, and a full stop at the end is not part of a number.
_NUMBER = re.compile(r"(?<![\w.])-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?<![\w.])-?\d+(?:\.\d+)?|(?<![\w.])-?\.\d+")


def right_number(completions: list[Any], answer: list[str], **_: Any) -> list[float | None]:
    """1 if the last number of a completion equals that of its `answer`, else 0; None if `answer` has no number.

    An answer is a number, or a text that ends with it, as in GSM8K: "... #### 42".
    """
    texts = (c if isinstance(c, str) else c[-1]["content"] for c in completions)
    pairs = ((last_number(text), last_number(str(right))) for text, right in zip(texts, answer, strict=True))
    return [None if right is None else float(given == right) for given, right in pairs]


def last_number(text: str) -> Decimal | None:
    """The last number of a text, which may have thousands separators; None if there is none."""
    numbers = _NUMBER.findall(text)
    return Decimal(numbers[-1].replace(",", "")) if numbers else None
