"""Rows in JSON Lines files: reading, writing, and rows that are read when they are needed."""

import gzip
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload
from weakref import finalize

from rlhf import InputError
from rlhf.rows.checks import CHECKS, valid_rows
from rlhf.rows.tally import Row, Tally

MAX_LINE = 2**28  # bytes; a longer line is hardly a row, and would fill the memory


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(`file:line`, line) for every non-blank line of a UTF-8 file. A file named *.gz is decompressed.

    Raises InputError for a missing or unreadable file, and for bytes that are not UTF-8.
    """
    for where, _, line in _lines(path):
        yield where, _decode(where, line)


def read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    """(`file:line`, value) for every non-blank line of a JSON Lines file.

    Raises InputError for a line that is not JSON.
    """
    for where, _, line in _lines(path):
        yield where, _parse(where, line)


def _lines(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """(`file:line`, position, line) for every non-blank line. Raises InputError for a file that can't be read."""
    position = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(iter(partial(file.readline, MAX_LINE), b""), start=1):
                if len(line) == MAX_LINE:
                    raise InputError(f"{path}:{number}: more than {MAX_LINE:,} bytes in one line; is it JSON Lines?")
                if line.strip():
                    yield f"{path}:{number}", position, line
                position += len(line)
    except FileNotFoundError as error:
        raise InputError(f"no file at {path}") from error
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: can't be read ({error})") from error


def _decode(where: str, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig")  # a BOM is not part of the text
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason}); convert the file, for instance with iconv") from error


def _parse(where: str, line: bytes) -> Any:
    """The JSON value in a line."""
    try:
        return json.loads(_decode(where, line))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not JSON ({error.msg} at column {error.colno}); each line must hold one JSON value"
        ) from error
    except (RecursionError, ValueError) as error:  # brackets nested too deeply, or a number with too many digits
        raise InputError(f"{where}: not a usable row ({error})") from error


def read_rows(path: Path, kind: str, tally: Tally | None = None) -> Sequence[Row]:
    """The valid rows of a JSON Lines file, which are read when they are needed, unless the file is compressed.

    Raises InputError if a row is malformed, or if none is usable.
    """
    tally, path = Tally() if tally is None else tally, Path(path)
    seekable = path.suffix != ".gz" and (path.is_file() or not path.exists())
    rows = RowFile(path, kind, tally) if seekable else list(valid_rows(read_jsonl(path), kind, tally))
    if not rows:
        raise InputError(f"{path}: no usable {kind} ({tally})")
    return rows


class LazyRows(Sequence[Row]):
    """Rows that are read when they are needed, by `row`."""

    def row(self, index: int) -> Row:
        """The row at an index, which may be negative."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self.row(i) for i in range(len(self))[index]]
        return self.row(index)


class RowFile(LazyRows):
    """The valid rows of a JSON Lines file. Only their positions are in memory."""

    def __init__(self, path: Path, kind: str, tally: Tally):
        """Checks every row, and counts used and dropped ones. Raises InputError if a row is malformed."""
        self.path, self.kind = path, kind
        self.starts, self.sizes = array("q"), array("q")  # bytes
        for where, start, line in _lines(path):
            for _ in valid_rows([(where, _parse(where, line))], kind, tally):
                self.starts.append(start)
                self.sizes.append(len(line))
        self.descriptor = os.open(path, os.O_RDONLY)
        finalize(self, os.close, self.descriptor)

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, index: int) -> Row:
        """The row, in its checked form."""
        # pread does not move the file's position, which forked processes share
        line = os.pread(self.descriptor, self.sizes[index], self.starts[index])
        return CHECKS[self.kind](_parse(str(self.path), line), str(self.path))[0]

    def size(self, index: int) -> int:
        """The bytes of a row in the file."""
        return self.sizes[index]


class Subset(LazyRows):
    """The rows with these indices."""

    def __init__(self, rows: Sequence[Row], indices: Sequence[int]):
        self.rows, self.indices = rows, array("q", indices)

    def __len__(self) -> int:
        return len(self.indices)

    def row(self, index: int) -> Row:
        """The row at a position of `indices`."""
        return self.rows[self.indices[index]]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes JSON Lines. Lone surrogates become JSON escapes; values that JSON can't represent become strings."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(map(to_line, rows))


def to_line(row: Row) -> str:
    """A row as a line of JSON Lines."""
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"
