"""What rows look like: one as text, with the borders of the replies, and a line of statistics."""

import json
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rlhf.rows import Row, Text, plain_text

MAX_LINES, MAX_WIDTH = 12, 160  # of a text that is shown


class Statistics:
    """Numbers of characters of the rows of one kind, and K, the number of completions."""

    def __init__(self) -> None:
        self.numbers: dict[str, array[int]] = {}

    def count(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Passes the rows on."""
        for row in rows:
            if "ranks" in row:
                self._add("K", len(row["ranks"]))
            for name, text in texts_of(row):
                self._add(name.partition(" ")[0], len(plain_text(text)))
            yield row

    def _add(self, name: str, number: int) -> None:
        self.numbers.setdefault(name, array("I")).append(number)

    def __str__(self) -> str:
        """For instance `K 2 to 4; characters (median, 95 %, longest): prompt 80, 200, 300; completion 60, 90, 120`."""
        parts = []
        if "K" in self.numbers:
            k = np.array(self.numbers["K"])
            parts.append(f"K {k.min()}" + (f" to {k.max()}" if k.max() > k.min() else ""))
        lengths = []
        for name, numbers in self.numbers.items():
            if name != "K":
                values = np.array(numbers)
                median, most = np.percentile(values, [50, 95], method="nearest")
                lengths.append(f"{name} {median:,}, {most:,}, {values.max():,}")
        return "; ".join([*parts, f"characters (median, 95 %, longest): {lengths[0]}", *lengths[1:]])


def texts_of(row: Row) -> list[tuple[str, Any]]:
    """(name, text): prompt, completions by rank, or the text of a document."""
    texts = [(name, row[name]) for name in ("prompt", "text", "messages") if row.get(name) is not None][:1]
    if "completions" in row:
        order = sorted(range(len(row["ranks"])), key=row["ranks"].__getitem__)
        return texts + [(f"completion rank {row['ranks'][i]:g}", row["completions"][i]) for i in order]
    return texts + ([("completion", row["completion"])] if "completion" in row else [])


def as_lines(row: Row) -> list[str]:
    """The row as lines. A completion begins with `[[` and ends with `]]`."""
    lines = []
    for name, text in texts_of(row):
        shown = _shortened(_shown(text))
        label = name.removeprefix("completion ") if name.startswith("completion ") else name
        if name.startswith("completion"):
            shown = f"[[{shown}]]"
        first, *rest = shown.split("\n")
        lines += [f"{label:<10} | {first}", *(f"{'':<10} | {line}" for line in rest)]
    return lines


def _shown(text: Text) -> str:
    """A text as a string. Messages include thoughts, tool calls, and a mark if they are not learned."""
    if isinstance(text, str):
        return text
    lines = []
    for message in text:
        lines.append(f"{message['role']}{' (not learned)' if message.get('weight') == 0 else ''}: {message['content']}")
        thoughts = next(filter(None, map(message.get, ("reasoning_content", "thinking", "reasoning"))), None)
        lines += [f"  thoughts: {thoughts}"] if thoughts else []
        lines += [f"  call: {json.dumps(call, ensure_ascii=False)}" for call in message.get("tool_calls", ())]
    return "\n".join(lines)


def _shortened(text: str) -> str:
    """The text, or its beginning and its end."""
    lines = [line if len(line) <= MAX_WIDTH else f"{line[:MAX_WIDTH]} ..." for line in text.split("\n")]
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 3], f"... {len(lines) - MAX_LINES + 1} lines ...", *lines[-2:]]
    return "\n".join(lines)
