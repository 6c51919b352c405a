"""A source of rows as a recipe names it: its path, and how its columns become rows if their shape is not known.

    comparisons:
      - openbmb/UltraFeedback
      - {path: mine.jsonl, columns: {prompt: question.full_text, chosen: best, rejected: worst}}
      - {path: mine.jsonl, adapter: "my_module:rows"}
      - {hub: openai/webgpt_comparisons, path: webgpt.jsonl}

A mapping is written as JSON on the command line.
"""

import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any

from data.shapes import rows_of
from data.shapes.refusals import seen
from data.shapes.values import from_json, is_absent, kind_of, number
from rlhf import InputError, first_line
from rlhf.option import did_you_mean
from rlhf.rows import Row, Tally

BESIDE = ("system", "history", "tools")
# the columns that a mapping can make, by kind; those of the first group are the prompt
TARGETS = {
    "text": (("text", "messages"),),
    "demonstrations": (("prompt", "instruction", "messages"), ("completion",)),
    "comparisons": (("prompt", "instruction"), ("chosen", "rejected", "completions", "ranks")),
    "prompts": (("prompt", "instruction", "messages"),),
}
_KNOWN = sorted({*BESIDE, *(target for groups in TARGETS.values() for group in groups for target in group)})
_PATH = re.compile(r"-?[^.\[\]]+(\.[^.\[\]]+|\[\d{0,6}\])*")
NONE_RETURNED = "row for which the adapter returned no rows"


@dataclass(frozen=True)
class Source:
    """A file, a pattern of files or a hub data set, and how to read its columns."""

    path: str = ""
    hub: str = ""  # read if the recipe sets no `folder`; with a folder, `path` in it is read instead
    columns: dict[str, str | list[str]] = field(default_factory=dict)  # column of a row -> path of the value
    adapter: str | None = None  # "module:function", which gets a raw row and returns rows
    common_prefix: bool = False  # the prompt is the common prefix of `chosen` and `rejected`

    @classmethod
    def parse(cls, text: str) -> "Source":
        """The source of a path, or of the JSON text of a mapping. Raises InputError for an invalid mapping."""
        if not text.lstrip().startswith("{"):
            return cls(text)
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"a source is a path or a mapping; {text[:80]!r} is not valid JSON ({error})") from error
        names = [known.name for known in fields(cls)]
        for name in given:
            if name not in names:
                raise InputError(f"a source has no {name!r}{did_you_mean(name, names)}; it has {', '.join(names)}")
        places = [given[name] for name in ("path", "hub") if name in given]
        if not places or not all(isinstance(place, str) and place for place in places):
            raise InputError("a source that is a mapping needs a path: a file, or the id of a hub data set")
        if not isinstance(given.get("adapter"), str | None) or not isinstance(given.get("common_prefix", False), bool):
            raise InputError("adapter is a Python function, module:function, and common_prefix is true or false")
        _check_columns(given.get("columns", {}))
        if given.get("adapter") and (given.get("columns") or given.get("common_prefix")):
            raise InputError("a source has either an adapter, or columns and common_prefix: the adapter returns rows")
        return cls(**given)

    def name_in(self, folder: str | None) -> str:
        """The file or hub id to read: `path` if a folder is set or there is no `hub`, else `hub`."""
        return self.path if self.path and (folder or not self.hub) else self.hub

    def rows(
        self,
        raw_rows: Iterable[tuple[str, Any]],
        kind: str,
        tally: Tally,
        load: Callable[[str], Callable[..., Any]],
    ) -> Iterator[tuple[str, Row]]:
        """Yields (place, row of `kind`) for pairs (place, raw row); `load` imports a function by its name.

        The rows are not checked yet, see `rlhf.rows.valid_rows`. Raises InputError with the place.
        """
        if self.adapter:
            function = load(self.adapter)
            for where, raw in raw_rows:
                yield from ((where, row) for row in _adapted(function, self.adapter, raw, where, tally))
        elif self.columns:
            _check_targets(self.columns, kind)
            for where, raw in raw_rows:
                mapped, others = self._mapped(raw, kind, where)
                rows = rows_of([(where, mapped)], kind, tally, self.common_prefix)
                yield from ((where, {**others, **row}) for where, row in rows)
        else:
            yield from rows_of(raw_rows, kind, tally, self.common_prefix)

    def _mapped(self, raw: Any, kind: str, where: str) -> tuple[Row, Row]:
        """The columns that make a row, and the further columns of a raw row.

        If the mapping names no column of a group (the prompt or the answers), the group's columns are copied unchanged.
        """
        if not isinstance(raw, dict):
            raise InputError(f"{where}: columns can't be mapped: the row is {kind_of(raw)}, not an object")
        mapped = {target: _value(raw, path, target, where) for target, path in self.columns.items()}
        for target, value in mapped.items():
            if isinstance(value, bool | int | float) and not is_absent(value):
                path = self.columns[target]
                raise InputError(f"{where}: columns: {target} is {kind_of(value)} ({path}), not text or a list")
        for group in TARGETS[kind]:
            if not mapped.keys() & set(group):
                mapped |= {target: raw[target] for target in group if target in raw}
        if isinstance(mapped.get("ranks"), list) and isinstance(mapped.get("completions"), list):
            _leave_out_unranked(mapped)
        paths = [p for path in self.columns.values() for p in (path if isinstance(path, list) else [path])]
        sources = {p if p in raw else _head(p) for p in paths}
        targets = {*BESIDE, *(target for group in TARGETS[kind] for target in group)}
        return mapped, {column: value for column, value in raw.items() if column not in sources | targets}


# --- checks -----------------------------------------------------------------------------------------------------------


def source_text(text: str) -> str:
    """The text, if it is a valid source. Raises InputError otherwise."""
    Source.parse(text)
    return text


def _check_columns(columns: Any) -> None:
    if not isinstance(columns, dict):
        raise InputError("columns is a mapping, from a column of a row to a column of the source")
    for target, path in columns.items():
        if target not in _KNOWN:
            raise InputError(
                f"columns can't make {target!r}{did_you_mean(target, _KNOWN)}; it can make {', '.join(_KNOWN)}"
            )
        paths = path if isinstance(path, list) and path else [path]
        for one in paths:
            if not isinstance(one, str) or not _PATH.fullmatch(one):
                raise InputError(
                    f"columns: {target} is {json.dumps(path)}; it must be the name of a column, a path such as "
                    "question.full_text or completions[].response, or a list of them"
                )
            if one.startswith("-") and (target != "ranks" or len(paths) > 1):
                raise InputError(f"columns: {target}: only ranks can have a minus sign, which turns scores into ranks")


def _check_targets(columns: dict[str, Any], kind: str) -> None:
    """Raises InputError if the columns that a mapping makes are not those of the kind."""
    known = {*(target for group in TARGETS[kind] for target in group), *BESIDE}
    for target in columns:
        if target not in known:
            raise InputError(
                f"columns can't make {target!r} for {kind}{did_you_mean(target, known)}: {', '.join(sorted(known))}"
            )
    for one, other in (("chosen", "rejected"), ("completions", "ranks")):
        if (one in columns) != (other in columns):
            raise InputError(f"columns makes only one of {one} and {other}; {kind} need both")
    if "chosen" in columns and "completions" in columns:
        raise InputError("columns makes chosen and completions; write chosen with rejected, or completions with ranks")
    if len(columns.keys() & {"prompt", "instruction", "messages"}) > 1:
        raise InputError("columns makes the prompt twice; write one of prompt, instruction and messages")


# --- values -----------------------------------------------------------------------------------------------------------


def _head(path: str) -> str:
    return re.split(r"[.\[]", path.removeprefix("-"))[0]


def _value(raw: Row, path: str | list[str], target: str, where: str) -> Any:
    """The value at a path, or the texts at several paths as paragraphs; null where there is none."""
    if isinstance(path, list):
        parts = [_value(raw, one, target, where) for one in path]
        if not all(isinstance(part, str | None) for part in parts):
            raise InputError(f"{where}: columns: {target}: {', '.join(path)} can't be joined: not all of them are text")
        return "\n\n".join(filter(None, parts)) or None
    if path in raw:
        return raw[path]
    head, rest = _head(path), re.findall(r"[^.\[\]]+|\[\d*\]", path.removeprefix("-"))[1:]
    if head not in raw:
        raise InputError(f"{where}: columns: {target}: there is no column {head!r}; the row has {seen(raw)}")
    value = _at(raw[head], rest, f"{where}: columns: {target}: {path}")
    if not path.startswith("-"):
        return value
    values = [number(v) for v in (value if isinstance(value, list) else [value])]
    return [None if v is None else -v for v in values]


def _at(value: Any, steps: list[str], where: str) -> Any:
    """The value that the steps `name`, `[]` and `[0]` lead to; null where a value is null or a list is too short."""
    for i, step in enumerate(steps):
        value = from_json(value)
        if value is None:
            return None
        if not isinstance(value, list if step.startswith("[") else dict):
            hint = f"; write [].{step} to take it from each element" if isinstance(value, list) else ""
            raise InputError(f"{where}: {step} can't be taken from {kind_of(value)}{hint}")
        if step == "[]":
            return [_at_or_null(element, steps[i + 1 :], where) for element in value]
        if isinstance(value, list):
            index = int(step[1:-1])
            value = value[index] if index < len(value) else None
        elif step in value:
            value = value[step]
        else:
            raise InputError(f"{where}: there is no {step!r}; there is {', '.join(map(str, value)) or 'nothing'}")
    return value


def _at_or_null(element: Any, steps: list[str], where: str) -> Any:
    """The value at a path in an element of a list; null if the element lacks the first key, for instance a score."""
    if steps and isinstance(element, dict) and steps[0] not in element:
        return None
    return _at(element, steps, where)


def _leave_out_unranked(mapped: Row) -> None:
    """Removes the completions without a number as their rank, in place."""
    ranks, completions = mapped["ranks"], mapped["completions"]
    if len(ranks) == len(completions):
        known = [i for i, rank in enumerate(ranks) if number(rank) is not None]
        mapped["ranks"], mapped["completions"] = [number(ranks[i]) for i in known], [completions[i] for i in known]


# --- the user's function ----------------------------------------------------------------------------------------------


def _adapted(function: Callable[..., Any], name: str, raw: Any, where: str, tally: Tally) -> list[Row]:
    """The rows that an adapter returns or yields. An empty list is allowed; None is an error."""
    try:
        result = function(raw)
        # copied, because a generator may change and yield the same object repeatedly
        rows = [deepcopy(row) for row in result] if isinstance(result, Generator | list | tuple) else result
    except SystemExit as error:
        raise InputError(f"{where}: {name} called exit") from error
    except Exception as error:
        raise InputError(f"{where}: {name} raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(rows, list | tuple) or not all(isinstance(row, dict) for row in rows):
        got = " and ".join(sorted({kind_of(row) for row in rows})) if isinstance(rows, list | tuple) else kind_of(rows)
        raise InputError(f"{where}: {name} returned {got}; it must return a list of rows, each an object with columns")
    try:
        json.dumps(rows, default=str)
    except (TypeError, ValueError, RecursionError) as error:  # a key that is not text, or an object within itself
        raise InputError(f"{where}: {name} returned a row that JSON can't hold ({first_line(error)})") from error
    if not rows:
        tally.dropped[NONE_RETURNED] += 1
    return list(rows)
