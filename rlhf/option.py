"""Options: dataclass fields with a default, a help text and the range of a number; and the check of their values."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rlhf import InputError

LONGEST_VALUE = 60  # characters of a value that a message shows
KINDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list of texts",
    dict: "a JSON object", list[float]: "a list of finite numbers",
}  # fmt: skip


@dataclass(frozen=True)
class Range:
    """The allowed values of a number. `at_least` and `at_most` are inclusive, `above` and `below` exclusive bounds.

    With `or_zero`, 0 is allowed too.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    or_zero: bool = False

    def __contains__(self, number: float) -> bool:
        return (self.or_zero and number == 0) or (
            (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        zero = "0 or " if self.or_zero else ""
        if self.at_least is not None and self.at_most is not None:
            return f"{zero}from {self.at_least:,} to {self.at_most:,}"
        names = ("at_least", "above", "at_most", "below")
        bounds = {name.replace("_", " "): bound for name in names if (bound := getattr(self, name)) is not None}
        return zero + " and ".join(f"{name} {bound:,}" for name, bound in bounds.items())


def option(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    or_zero: bool = False,
) -> Any:
    """A dataclass field with a default, a help text and, for a number, its range, which `check_options` checks."""
    metadata = {"help": help, "range": Range(at_least, above, at_most, below, or_zero)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def check_options(options: Any) -> None:
    """Raises InputError for the first option of a dataclass that has the wrong type or is outside its range."""
    options_class: Any = type(options)
    for name in _types(options_class):
        check_option(options_class, name, getattr(options, name))


def check_option(options_class: type, name: str, value: Any) -> None:
    """Raises InputError, with name, value and range, if the option can't have this value."""
    hint, limits = _types(options_class)[name]
    if problem := problem_of(value, hint, limits):
        raise InputError(f"{name} is {shown(value)}; {problem}")


def problem_of(value: Any, hint: Any, limits: Range = Range()) -> str:  # noqa: B008  immutable
    """The requirement that a value violates, such as "it must be above 0"; "" if it violates none."""
    kind, optional = kind_of(hint)
    words = [word for part in get_args(hint) if get_origin(part) is Literal for word in get_args(part)]
    if (value is None and optional) or value in words:
        return ""
    or_none = " or none" if optional else ""
    or_word = f"{' or '.join(words)}, or " if words and get_origin(kind) is not Literal else ""
    if names := get_args(kind) if get_origin(kind) is Literal else ():
        *first, last = (*names, "none") if optional else names
        allowed = " or ".join(filter(None, [", ".join(first), last]))
        return "" if value in names else f"it must be {allowed}{did_you_mean(value, names)}"
    if not _is_of(value, kind) or (isinstance(value, Real) and not _is_finite(value)):
        finite = "finite " if isinstance(value, float) and kind is float else ""
        text = ", ".join(
            filter(
                None,
                [
                    KINDS[kind if kind in KINDS else get_origin(kind)].replace("a number", f"a {finite}number"),
                    str(limits),
                ],
            )
        )
        return f"it must be {or_word}{text}{or_none}"
    if kind in (int, float) and value not in limits:
        return f"it must be {or_word}{limits}{or_none}"
    return ""


def kind_of(hint: Any) -> tuple[Any, bool]:
    """The type of an option without None, and whether the option may be None."""
    alternatives = get_args(hint)
    if NoneType not in alternatives:
        return hint, False
    return next(kind for kind in alternatives if kind is not NoneType), True


def did_you_mean(name: Any, names: Iterable[str]) -> str:
    """The nearest of the names as a question to append to a message; "" if none is near."""
    close = difflib.get_close_matches(str(name).lower(), list(names), n=1)
    return f', did you mean "{close[0]}"?' if close else ""


def shown(value: Any) -> str:
    """The value as a message shows it, shortened if it is long."""
    if isinstance(value, int) and abs(value) >= 10**300:  # Python refuses to format very long numbers
        return "a number of more than 300 digits"
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value has the type. A whole number is a number, and true and false are not."""
    if get_origin(kind) is list:
        item_kind = float if kind == list[float] else str
        return isinstance(value, list) and all(
            _is_of(item, item_kind) and (item_kind is str or _is_finite(item)) for item in value
        )
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, {int: Integral, float: Real}.get(kind, kind))


def _is_finite(number: Real) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number too large for a float
        return False


@cache
def _types(options_class: type) -> dict[str, tuple[Any, Range]]:
    """The type and the range of each option by name."""
    hints = get_type_hints(options_class)
    return {item.name: (hints[item.name], item.metadata["range"]) for item in fields(options_class)}
