"""Reads tables: CSV and TSV, in which every value is text, and Parquet and Arrow, whose values have types."""

import csv
import io
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from data.encodings import MAX_LINE, Content, bounded_lines
from rlhf import InputError, first_line

DELIMITERS = ",;\t|"
BATCH = 256  # rows of a Parquet or Arrow file that are converted at once


# --- CSV and TSV ------------------------------------------------------------------------------------------------------


def read_csv(content: Content, delimiter: str | None = None) -> Iterator[tuple[str, Any]]:
    """(`file:line` of its beginning, row) for every row. All values are strings; an empty field is "".

    By default, the delimiter is the one that splits the header line into the most columns. Raises InputError for a
    column without a name, two columns with one name, and a row with more or fewer fields than the header.
    """
    csv.field_size_limit(MAX_LINE)
    with content.text("") as text:
        lines = bounded_lines(text, content.name)
        beginning = _up_to_header(lines)
        delimiter = delimiter or _delimiter(beginning[-1], content.name)
        records = _records(chain(beginning, lines), delimiter, content.name)
        first = next(records, None)
        if first is None:
            raise InputError(f"{content.name}: the file is empty; its first line has the names of the columns")
        header = _header(*first)
        for where, fields in records:
            if len(fields) != len(header):
                raise InputError(
                    f"{where}: {len(fields)} fields, but the header has {len(header)} ({', '.join(header)}); "
                    "put quotes around a field that has a delimiter or a line break"
                )
            yield where, dict(zip(header, fields, strict=True))


def _up_to_header(lines: Iterator[str]) -> list[str]:
    """The blank lines at the beginning and the line after them, which has the names of the columns."""
    beginning = [""]
    for line in lines:
        beginning.append(line)
        if line.strip():
            break
    return beginning[1:] or beginning


def _delimiter(line: str, name: str) -> str:
    columns = {delimiter: len(next(csv.reader([line], delimiter=delimiter), [])) for delimiter in DELIMITERS}
    most = max(columns.values())
    best = [delimiter for delimiter in DELIMITERS if columns[delimiter] == most]
    if most > 1 and len(best) > 1:
        raise InputError(f"{name}: which of {' '.join(map(repr, best))} separates the columns of the header line?")
    return best[0]


def _records(lines: Iterable[str], delimiter: str, name: str) -> Iterator[tuple[str, list[str]]]:
    """(place, fields) for every record that is not a blank line."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        where = f"{name}:{reader.line_num + 1}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{where}: not CSV ({error}); close quoted fields, double the quotes in them") from error
        if fields is None:
            return
        if len(fields) > 1 or "".join(fields).strip():
            yield where, fields


def _header(where: str, fields: list[str]) -> list[str]:
    header = [field.strip() for field in fields]
    for number, column in enumerate(header, start=1):
        if not column:
            raise InputError(f"{where}: column {number} has no name; name it (an index: to_csv(index=False))")
        if column in header[: number - 1]:
            raise InputError(f'{where}: two columns have the name "{column}"; rename one')
    return header


# --- Parquet and Arrow ------------------------------------------------------------------------------------------------


def read_parquet(content: Content) -> Iterator[tuple[str, Any]]:
    """(`file, row n`, row) for every row. Values are what pyarrow's to_pylist makes of them."""
    import pyarrow.parquet as pq  # here, because plain files don't need it

    # without these a whole column of a row group would be held in memory
    streamed = {"pre_buffer": False, "buffer_size": 2**20}
    with (
        _on_disk(content) as path,
        _readable(content.name),
        pq.ParquetFile(path, page_checksum_verification=True, **streamed) as file,
    ):
        yield from _rows(file.schema_arrow, file.iter_batches(batch_size=BATCH), content.name)


def read_arrow(content: Content) -> Iterator[tuple[str, Any]]:
    """(`file, row n`, row) for every row of an Arrow file or stream (data sets of `datasets` are streams)."""
    import pyarrow as pa

    with _on_disk(content) as path, _readable(content.name), pa.memory_map(path) as file:
        if file.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            file.seek(0)
            reader = batches = pa.ipc.open_stream(file)
        yield from _rows(reader.schema, batches, content.name)


def _rows(schema: Any, batches: Iterable[Any], name: str) -> Iterator[tuple[str, Any]]:
    if repeated := {column for column in schema.names if schema.names.count(column) > 1}:
        raise InputError(f"{name}: several columns have the name {', '.join(sorted(repeated))}; rename them")
    number = 0
    for batch in batches:
        batch.validate(full=True)  # otherwise pyarrow would follow wrong offsets to memory outside of the file
        for start in range(0, batch.num_rows, BATCH):
            for row in batch.slice(start, BATCH).to_pylist():
                number += 1
                yield f"{name}, row {number}", row


@contextmanager
def _on_disk(content: Content) -> Iterator[str]:
    """The path of the content, or of a decompressed temporary copy: these formats need random access."""
    with content.open() as file:
        if isinstance(file, io.BufferedReader):
            yield file.name
            return
        with tempfile.NamedTemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            yield copy.name


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Raises InputError for whatever pyarrow raises: its own errors, and Python's for values out of range."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name}: can't be read ({first_line(error)}); is the file complete?") from error
