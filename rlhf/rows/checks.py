"""Checks of rows: each returns the row in its checked form, and the reason to drop it or ""."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rlhf import InputError
from rlhf.rows.messages import is_message, normalised, without_weights
from rlhf.rows.tally import Row, Tally


def valid_rows(rows: Iterable[tuple[str, Any]], kind: str, tally: Tally) -> Iterator[Row]:
    """The usable rows, comparisons as completions with ranks; `tally` counts used and dropped rows.

    `rows` are pairs (place, row). Raises InputError, with the place, for a malformed row.
    """
    for where, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"{where}: a row is an object with columns, not {type(row).__name__}")
        row, fault = CHECKS[kind](row, where)
        if fault:
            tally.dropped[fault] += 1
        else:
            tally.used += 1
            yield row


def _check_text(row: Row, where: str) -> tuple[Row, str]:
    if row.get("messages") is None and "text" in row:
        row = {column: value for column, value in row.items() if column != "messages"}
    column = "messages" if "messages" in row else "text"
    value, fault = _checked(_column(row, column, where), column, where)
    return {**row, column: without_weights(value)}, fault


def _check_demonstration(row: Row, where: str) -> tuple[Row, str]:
    checked = {column: _checked(_column(row, column, where), column, where) for column in ("prompt", "completion")}
    faults = [fault for _, fault in checked.values()]
    return {**row, **{column: value for column, (value, _) in checked.items()}}, next(filter(None, faults), "")


def _check_prompt(row: Row, where: str) -> tuple[Row, str]:
    value, fault = _checked(_column(row, "prompt", where), "prompt", where)
    return {**row, "prompt": without_weights(value)}, fault


def _check_comparison(row: Row, where: str) -> tuple[Row, str]:
    if "completions" not in row and "chosen" in row:
        completions = [_column(row, "chosen", where), _column(row, "rejected", where)]
        rest = {column: value for column, value in row.items() if column not in ("chosen", "rejected")}
        row = {**rest, "completions": completions, "ranks": [0, 1]}
    _check_ranking(row, where)
    row, fault = _check_prompt(row, where)
    if fault:
        return row, fault
    checked = [_checked(completion, "completion", where) for completion in row["completions"]]
    if len(checked) < 2:
        return row, "fewer than two completions"
    row = {**row, "completions": [without_weights(value) for value, _ in checked]}
    return _without_duplicates(row, [fault for _, fault in checked])


def _check_ranking(row: Row, where: str) -> None:
    """Raises InputError if a column of a ranking is missing, or has the wrong type or length."""
    _, completions, ranks = (_column(row, column, where) for column in ("prompt", "completions", "ranks"))
    if not isinstance(completions, list) or not isinstance(ranks, list):
        raise InputError(f'{where}: "completions" and "ranks" are lists, one entry for each completion')
    if len(ranks) != len(completions):
        raise InputError(f'{where}: "ranks" has {len(ranks)} entries for {len(completions)} completions')
    if not all(isinstance(r, int | float) and not isinstance(r, bool) and abs(r) < 1e9 for r in ranks):
        raise InputError(f'{where}: "ranks" are numbers, 0 for the best, equal for a tie')
    ended = row.get("ended", [True] * len(ranks))
    if not isinstance(ended, list) or len(ended) != len(ranks) or not all(isinstance(e, bool) for e in ended):
        raise InputError(f'{where}: "ended" is a list of true and false, one entry for each completion')


def _without_duplicates(row: Row, faults: list[str]) -> tuple[Row, str]:
    """The ranking without unusable completions and without duplicates, of which the best is kept.

    The second result is the reason to drop the whole row, or "".
    """
    completions, ranks = row["completions"], row["ranks"]
    kept: dict[str, int] = {}
    for i in sorted(range(len(ranks)), key=ranks.__getitem__):
        if not faults[i]:
            kept.setdefault(json.dumps(completions[i], sort_keys=True), i)
    if len(kept) < 2:
        return row, next(filter(None, faults), "completions all the same")
    if len({ranks[i] for i in kept.values()}) == 1:
        return row, "all completions tied"
    # ranks become 0, 1, 2, ..., because ranks that differ little or are large may be equal in fp32
    dense = {rank: index for index, rank in enumerate(sorted(set(ranks)))}
    row, order = {**row, "ranks": [dense[rank] for rank in ranks]}, sorted(kept.values())
    per_completion = [
        column
        for column, value in row.items()
        if column != "prompt" and isinstance(value, list) and len(value) == len(ranks)
    ]
    return {**row, **{column: [row[column][i] for i in order] for column in per_completion}}, ""


CHECKS: dict[str, Callable[[Row, str], tuple[Row, str]]] = {
    "text": _check_text,
    "demonstrations": _check_demonstration,
    "comparisons": _check_comparison,
    "prompts": _check_prompt,
}


def _column(row: Row, column: str, where: str) -> Any:
    if column not in row:
        raise InputError(f'{where}: no "{column}"; the row has {", ".join(row) or "nothing"}')
    return row[column]


def _checked(text: Any, column: str, where: str) -> tuple[Any, str]:
    """A text with its messages in one form, and the reason why it is unusable, or "".

    Raises InputError if it is neither a string nor chat messages.
    """
    if text is None:
        return text, f"empty {column}"
    if isinstance(text, str):
        if not _is_unicode(text):
            return text, f"{column} with half a character (a lone surrogate)"
        return text, "" if text.strip() else f"empty {column}"
    if not isinstance(text, list) or not all(map(is_message, text)):
        raise InputError(
            f'{where}: "{column}" is {type(text).__name__}; it must be text, or messages with role and content'
        )
    try:
        messages, fault = normalised(text)
    except InputError as error:
        raise InputError(f'{where}: "{column}": {error}') from error
    if not messages:
        return messages, fault or f"empty {column}"
    if any(not _is_unicode(message["content"]) for message in messages):
        return messages, f"{column} with half a character (a lone surrogate)"
    # a message with tool calls, and the result of a tool, may have empty content
    empty = (not (m["content"].strip() or m.get("tool_calls") or m["role"] == "tool") for m in messages)
    return messages, fault or (f"empty {column}" if any(empty) else "")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
