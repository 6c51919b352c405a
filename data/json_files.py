"""Reads JSON Lines, and JSON in the usual layouts of tables. Elements of an array are read one by one."""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from data.encodings import MAX_LINE, Content, bounded_lines
from rlhf import InputError

MAX_TABLE = 2**28  # characters of a table stored column by column, which is read whole
CHUNK = 2**18  # characters read at once
_BLANK = re.compile(r"[ \t\n\r]*")

# an object with one of these columns and a list of objects is ambiguous: it can be a row, or hold a list of rows
_COLUMNS = frozenset(
    "prompt instruction question query input context text messages conversations chosen rejected completion"
    " completions response responses output answer answers".split()
)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f'the key "{next(key for key in keys if keys.count(key) > 1)}" occurs twice in an object')
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def read_json_lines(content: Content) -> Iterator[tuple[str, Any]]:
    """(`file:line`, value) for every line that is not blank. Raises InputError for a line that is not JSON."""
    with content.text("\n") as text:
        for number, line in enumerate(bounded_lines(text, content.name), start=1):
            if line.isspace():
                continue
            where = f"{content.name}:{number}"
            try:
                value = _DECODER.decode(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{where}: not JSON ({error.msg} at column {error.colno}); each line must hold one JSON value"
                ) from error
            except (RecursionError, ValueError) as error:  # too many brackets or digits, a key twice
                raise InputError(f"{where}: not a usable row ({error})") from error
            yield where, value


def read_json(content: Content) -> Iterator[tuple[str, Any]]:
    """(place, row) for every row of a JSON file, in one of these layouts:

        [row, row]                                       an array
        row row                                          values one after another, also one value alone
        {"version": "1", "data": [row, row]}             under the only key whose value is a list of objects
        {"prompt": {"0": "a"}}, {"prompt": ["a"]}        columns: pandas' to_json() and its orient="list"
        {"0": {"prompt": "a"}}                           orient="index"
        {"columns": ["prompt"], "data": [["a"]]}         orient="split"

    Raises InputError for what is not JSON, and for an object that can be read in two ways.
    """
    with content.text() as text:
        values = _Values(text, content.name)
        first = values.peek()
        if first == "[":
            yield from _numbered("element", values.elements(), content)
            if values.peek():
                raise values.error("more follows the array of rows")
            return
        layout, key = _layout(values) if first == "{" else ("values", "")
    with content.text() as text:  # from the beginning
        values = _Values(text, content.name)
        if layout == "values":
            yield from _one_after_another(values)
        elif layout == "key":
            yield from _numbered("element", _under(key, values), content)
        else:
            yield from _numbered("row", _table_rows(layout, values), content)


def _numbered(unit: str, rows: Iterator[Any], content: Content) -> Iterator[tuple[str, Any]]:
    return ((f"{content.name}, {unit} {number}", row) for number, row in enumerate(rows, start=1))


def _one_after_another(values: "_Values") -> Iterator[tuple[str, Any]]:
    """The values; the place of a value is its line, or "element 1" if it is the only one."""
    values.peek()
    where, value = f"{values.name}:{values.line_of(values.position)}", values.value()
    yield where if values.peek() else f"{values.name}, element 1", value
    while values.peek():
        where = f"{values.name}:{values.line_of(values.position)}"
        yield where, values.value()


def _under(key: str, values: "_Values") -> Iterator[Any]:
    for found in values.members():
        if found == key:
            yield from values.elements()
        else:
            values.skip()


def _table_rows(layout: str, values: "_Values") -> Iterator[dict[str, Any]]:
    """The rows of a table in one of pandas' layouts, which is read whole."""
    table = values.value(MAX_TABLE)
    if layout == "index":
        yield from table.values()
    elif layout == "split":
        for number, row in enumerate(table["data"], start=1):
            if len(row) != len(table["columns"]):
                raise InputError(f"{values.name}, row {number}: {len(row)} values for {len(table['columns'])} columns")
            yield dict(zip(table["columns"], row, strict=True))
    else:
        columns = [list(column.values() if isinstance(column, dict) else column) for column in table.values()]
        yield from (dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True))


# --- recognising the layout of an object ------------------------------------------------------------------------------


def _layout(values: "_Values") -> tuple[str, str]:
    """The layout of a file that begins with an object, and the key of its rows if the layout is "key".

    Reads up to the end of the object without holding its arrays in memory.
    """
    kinds: dict[str, str] = {}
    labels: dict[str, Any] = {}
    for key in values.members():
        kinds[key], labels[key] = _kind(values)
    if values.peek() or not kinds or "messages" in kinds.values():
        return "values", ""
    found = set(kinds.values())
    if found == {"object"}:
        return _layout_of_objects(labels, values.name), ""
    if {"columns", "data"} <= kinds.keys() <= {"columns", "index", "data"} and kinds["data"] == "lists":
        return "split", ""
    if candidates := [key for key, kind in kinds.items() if kind == "objects"]:
        return "key", _key_of_rows(candidates, kinds, values.name)
    if found <= {"list", "lists"}:
        if len(set(labels.values())) > 1:
            lengths = ", ".join(f"{key} {length:,}" for key, length in labels.items())
            raise InputError(f"{values.name}: its columns have different lengths ({lengths})")
        return "columns", ""
    return "values", ""


def _kind(values: "_Values") -> tuple[str, Any]:
    """The kind of the next value, and the length of a list or the keys of an object."""
    if (first := values.peek()) != "[":
        value = values.value(MAX_TABLE if first == "{" else MAX_LINE)
        return ("object", tuple(value)) if isinstance(value, dict) else ("value", None)
    kinds, length = set(), 0
    for length, element in enumerate(values.elements(), start=1):  # noqa: B007
        if isinstance(element, dict):
            is_message = "role" in element and element.keys() & {"content", "tool_calls"}
            kinds.add("messages" if is_message or {"from", "value"} <= element.keys() else "objects")
        else:
            kinds.add("lists" if isinstance(element, list) else "list")
    if kinds == {"messages", "objects"}:
        return "objects", length
    return kinds.pop() if len(kinds) == 1 else "list", length


def _layout_of_objects(keys: dict[str, tuple[str, ...]], name: str) -> str:
    """The layout of an object of objects with these keys. Integers are the labels of rows."""
    outer = all(key.isdecimal() for key in keys)
    inner = all(key.isdecimal() for labels in keys.values() for key in labels)
    if outer and inner:
        raise InputError(f"{name}: can't tell whether its values are columns or rows; write it with orient='records'")
    if outer:
        return "index"
    return "columns" if inner and len(set(keys.values())) == 1 else "values"


def _key_of_rows(candidates: list[str], kinds: dict[str, str], name: str) -> str:
    """The key of the rows, which are lists of objects. Raises InputError if there is doubt."""
    example = f"jq -c '.{candidates[0]}[]' {name} > rows.jsonl"
    if len(candidates) > 1:
        raise InputError(
            f"{name}: several keys hold lists of objects ({', '.join(candidates)}); keep that of the rows: {example}"
        )
    if columns := sorted(_COLUMNS & kinds.keys()):
        raise InputError(
            f"{name}: is it one row (its keys: {', '.join(columns)}), or are its rows under {candidates[0]}? "
            f"For one row, write it on one line of a .jsonl file; for several: {example}"
        )
    return candidates[0]


# --- JSON values, one after another -----------------------------------------------------------------------------------


class _Values:
    """Decodes the values of a JSON text through a buffer that holds little more than the current value."""

    def __init__(self, text: TextIO, name: str) -> None:
        self.text, self.name = text, name
        self.buffer, self.position, self.ended = "", 0, False
        self.line, self.column = 1, 1  # of the buffer's first character

    def peek(self) -> str:
        """The next character that is not white space, which becomes the position; empty at the end of the file."""
        while True:
            self.position = _BLANK.match(self.buffer, self.position).end()  # type: ignore[union-attr]
            if self.position < len(self.buffer) or self.ended:
                return self.buffer[self.position : self.position + 1]
            self._read()

    def value(self, limit: int = MAX_LINE) -> Any:
        """The next value. Raises InputError if it is not JSON, or if it has more than `limit` characters."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.position)
                # at the end of the buffer, "1" may be the beginning of "1.5e+10"
                if self.ended or end + 4 <= len(self.buffer):
                    self.position = end
                    return value
            except json.JSONDecodeError as error:
                # an error near the end of the buffer, or in a string, may go away when the rest of the value is read
                unfinished = error.pos >= len(self.buffer) - 16 or error.msg.startswith("Unterminated string")
                if self.ended or not unfinished:
                    raise self.error(error.msg, error.pos) from error
            except (RecursionError, ValueError) as error:  # too many brackets or digits, a key twice
                raise InputError(f"{self.name}:{self.line_of(self.position)}: not a usable row ({error})") from error
            if len(self.buffer) - self.position > limit:
                raise self.error(f"a value of more than {limit:,} characters")
            self._read(limit)

    def skip(self) -> None:
        """Skips the next value; an array is not held in memory."""
        if self.peek() == "[":
            for _ in self.elements():
                pass
        else:
            self.value(MAX_TABLE)

    def elements(self) -> Iterator[Any]:
        """The elements of the array that comes next."""
        self._take("[")
        if self.peek() != "]":
            yield self.value()
            while self.peek() == ",":
                self.position += 1
                yield self.value()
        self._take("]")

    def members(self) -> Iterator[str]:
        """The keys of the object that comes next. The caller reads the value of a key before the next key."""
        self._take("{")
        seen: set[str] = set()
        while self.peek() != "}" or seen:
            if self.peek() != '"':
                raise self.error("Expecting property name enclosed in double quotes")
            key = self.value()
            if key in seen:
                raise self.error(f'the key "{key}" occurs twice in an object')
            seen.add(key)
            self._take(":")
            yield key
            if self.peek() != ",":
                break
            self.position += 1
        self._take("}")

    def line_of(self, position: int) -> int:
        """The line of a position of the buffer."""
        return self.line + self.buffer.count("\n", 0, position)

    def error(self, message: str, position: int | None = None) -> InputError:
        """An error at a position of the buffer, by default the current one."""
        position = self.position if position is None else position
        before = self.buffer[:position]
        column = position - before.rfind("\n") if "\n" in before else position + self.column
        return InputError(f"{self.name}:{self.line_of(position)}: not JSON ({message} at column {column})")

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise self.error(f"Expecting '{character}'")
        self.position += 1

    def _read(self, limit: int = 0) -> None:
        """Reads more. Doubles the buffer, up to `limit`, so that decoding a long value again takes linear time."""
        before, rest = self.buffer[: self.position], self.buffer[self.position :]
        self.line += before.count("\n")
        self.column = len(before) - before.rfind("\n") if "\n" in before else self.column + len(before)
        chunk = self.text.read(max(CHUNK, min(len(rest), limit - len(rest))))
        self.buffer, self.position, self.ended = rest + chunk, 0, not chunk
