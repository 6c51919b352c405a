"""Control tokens that the texts of rows contain: a special token that a user writes is text, and ends no turn.

A mark takes the place of each such token before the chat template renders the row, so that the template's own special
tokens can be told from it. `rlhf.tokens.encoding` encodes a mark as the characters of its token.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from rlhf.rows import Row

Value = TypeVar("Value")

# Unicode's noncharacters, which text does not contain. A mark is MARK and digits, as long as its token, so that
# positions in a text stay the same.
MARK, _DIGITS = "\ufdd0", [chr(0xFDD1 + i) for i in range(31)]
_MARKS = re.compile(f"{MARK}[{_DIGITS[0]}-{_DIGITS[-1]}]*")
# around a thought, in models where they are special tokens too; templates read them in a reply
_OF_THOUGHTS = ("<think>", "</think>")
_COLUMNS = ("prompt", "completion", "completions", "text", "messages", "tools")


@dataclass(frozen=True)
class ControlTokens:
    """The special tokens of a tokenizer, and the mark of each."""

    pattern: re.Pattern[str]
    marks: dict[str, str]
    tokens: dict[str, str]  # by mark


@lru_cache(maxsize=8)
def control_tokens(tokenizer: PreTrainedTokenizerBase) -> ControlTokens:
    """The special tokens that are encoded as characters where a row contains them."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    names = {*added, *tokenizer.all_special_tokens} - {*_OF_THOUGHTS}
    marks: dict[str, str] = {}
    for length, group in groupby(sorted(filter(str.strip, names), key=lambda name: (-len(name), name)), key=len):
        for number, name in enumerate(group):
            if number < len(_DIGITS) ** (length - 1):  # a second token of one character would get no mark
                digits = [_DIGITS[number // len(_DIGITS) ** place % len(_DIGITS)] for place in range(length - 1)]
                marks[name] = MARK + "".join(digits)
    tokens = {mark: name for name, mark in marks.items()}
    # the longest token that begins at a position, as the tokenizer finds them; (?!) matches nothing
    return ControlTokens(re.compile("|".join(map(re.escape, marks)) or "(?!)"), marks, tokens)


def marked(tokenizer: PreTrainedTokenizerBase, value: Value) -> Value:
    """A text, messages or tools with marks in place of control tokens; the same object if it contains none."""
    control = control_tokens(tokenizer)
    if not _any_string(value, control.pattern):
        return value
    result: Value = _replaced(value, control.pattern, control.marks)
    return result


def marked_row(tokenizer: PreTrainedTokenizerBase, row: Row) -> Row:
    """A row with marks in place of control tokens; the same object if it contains none, or if it is `rendered`."""
    if is_rendered(row):
        return row
    new = {column: marked(tokenizer, row[column]) for column in _COLUMNS if column in row}
    return {**row, **new} if any(new[column] is not row[column] for column in new) else row


def is_rendered(row: Row) -> bool:
    """Whether a row's text was rendered on purpose, so that its control tokens are control tokens."""
    return row.get("rendered") is True


def without_marks(tokenizer: PreTrainedTokenizerBase, value: Value) -> Value:
    """A text, messages or tools with the control tokens in place of their marks; the same object if it has no mark."""
    if not _any_string(value, _MARKS):
        return value
    result: Value = _replaced(value, _MARKS, control_tokens(tokenizer).tokens)
    return result


def _any_string(value: Any, pattern: re.Pattern[str]) -> bool:
    if isinstance(value, str):
        return pattern.search(value) is not None
    if isinstance(value, dict):
        return any(_any_string(inner, pattern) for pair in value.items() if not _is_name(*pair) for inner in pair)
    return isinstance(value, list | tuple) and any(_any_string(inner, pattern) for inner in value)


def _is_name(key: Any, value: Any) -> bool:
    """Whether an entry is a role or a type, which templates compare with words; these may be special tokens."""
    return key in ("role", "type") and isinstance(value, str) and value.isidentifier()


def _replaced(value: Any, pattern: re.Pattern[str], by: dict[str, str]) -> Any:
    if isinstance(value, str):
        return pattern.sub(lambda match: by.get(match[0], match[0]), value)
    if isinstance(value, dict):
        return dict(
            pair if _is_name(*pair) else (_replaced(pair[0], pattern, by), _replaced(pair[1], pattern, by))
            for pair in value.items()
        )
    return [_replaced(inner, pattern, by) for inner in value] if isinstance(value, list | tuple) else value
