"""Rankings by people, as `make rank` and the chat page write them: a JSON line for each decision of a person.

An item is a prompt with its completions. A line has these columns:

    id, prompt, completions, ended   the item; `ended` is false for a truncated completion
    tools, rendered                  those of the prompt's row, if it has them
    models                           the model that wrote each completion
    shown                            indices of the completions in the order in which the person saw them
    ranks                            one for each completion, 0 is the best, equal ranks tie; null: the item was skipped
    all_bad, flag, note              no completion is acceptable; the item is unfit for training; a remark
    rater, time, seconds             the person, when (ISO 8601), and how long it took
    submission                       an id that the page makes, so that a decision that is sent twice is saved once

A person who changes a decision adds a line. The last line of a person for an item counts, the earlier ones are history.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from rlhf import InputError
from rlhf.rows import Row

FOLDER, FILE = "rankings", "rankings.jsonl"  # in the folder of a run
CHAT = "chat"  # the folder in FOLDER whose FILE has the marks of `make chat WEB=1`
COLUMNS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("id", "rater", "time", "note"), (str, "a text")),
    **dict.fromkeys(("completions", "ended", "models", "shown"), (list, "a list")),
    **dict.fromkeys(("all_bad", "flag"), (bool, "true or false")),
    "prompt": (str | list, "a text or a list of messages"),
    "seconds": (int | float, "a number"),
}


def read_decisions(path: Path) -> list[Row]:
    """The last decision of each person about each item, in the order of the file.

    A last line without a newline was cut off while it was written, and is ignored. Raises InputError, with file and
    line, for a line that `make rank` does not write.
    """
    try:
        whole = path.read_bytes().rpartition(b"\n")[0]
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error
    decisions: dict[tuple[str, str], Row] = {}
    for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
        row = _parse(line, f"{path}:{number}")
        key = (row["id"], row["rater"])
        decisions.pop(key, None)
        decisions[key] = row
    return list(decisions.values())


def _parse(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); remove the line, or restore the file") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: a ranking is an object with columns, not {type(row).__name__}")
    for column, (kind, words) in COLUMNS.items():
        if not isinstance(row.get(column), kind):
            raise InputError(f'{where}: "{column}" is missing or is not {words}; `make rank` writes such lines')
    ranks, count = row.get("ranks", ()), len(row["completions"])
    if ranks is not None and not (
        isinstance(ranks, list) and len(ranks) == count and all(type(rank) is int for rank in ranks)
    ):
        raise InputError(f'{where}: "ranks" is not a whole number for each completion, nor null')
    for column in ("ended", "models"):
        if len(row[column]) != count:
            raise InputError(f'{where}: "{column}" does not have one entry for each completion')
    return row


def usable(decisions: Iterable[Row]) -> Iterator[Row]:
    """The decisions that a reward model can learn from: not skipped, not flagged, and not all completions tied."""
    for row in decisions:
        if row["ranks"] is not None and not row.get("flag") and len(set(row["ranks"])) > 1:
            yield row


def pairs(rankings: Iterable[Row]) -> Iterator[Row]:
    """TRL's rows {prompt, chosen, rejected}, and `tools`: one for each two completions of a ranking that do not tie."""
    for row in rankings:
        tools = {"tools": row["tools"]} if "tools" in row else {}
        ranked = sorted(zip(row["ranks"], row["completions"], strict=True), key=lambda entry: entry[0])
        for (better, chosen), (worse, rejected) in combinations(ranked, 2):
            if better < worse:
                yield {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected, **tools}


def by_whom(decisions: Iterable[Row]) -> str:
    """`12 rankings by 2 people (Ada 7, Bob 5)`."""
    people = Counter(row["rater"] for row in decisions).most_common()
    names = ", ".join(f"{name} {count:,}" for name, count in people[:6]) + (", ..." if people[6:] else "")
    who = "1 person" if len(people) == 1 else f"{len(people):,} people"
    return f"{plural(sum(count for _, count in people), 'ranking')} by {who} ({names})"


def plural(count: int, noun: str) -> str:
    """`1 pair`, `2 pairs`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def agreement(decisions: Iterable[Row]) -> tuple[list[int], list[int]]:
    """How often people who ranked the same item order two of its completions alike.

    For each item that several people ranked: the number of pairs that they order alike, and of pairs that both order.
    A pair that one of them ties does not count.
    """
    by_item: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in decisions:
        if row["ranks"] is not None:
            by_item[row["id"]].append(row)
    alike, compared = [], []
    for rows in by_item.values():
        products = [
            (one["ranks"][i] - one["ranks"][j]) * (other["ranks"][i] - other["ranks"][j])
            for one, other in combinations(rows, 2)
            if one["rater"] != other["rater"]
            for i, j in combinations(range(len(one["ranks"])), 2)
        ]
        if ordered := sum(product != 0 for product in products):
            alike.append(sum(product > 0 for product in products))
            compared.append(ordered)
    return alike, compared
