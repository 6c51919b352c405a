"""Files in every format, made in the tests, and what reading them gives."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.files import read_path
from rlhf import InputError

ROWS = [{"prompt": "a,b;\t|", "completion": ' é\n"c"'}, {"prompt": "b", "completion": ""}]


def rows_of(path: Path, sample_by: str = "paragraph") -> list:
    return [row for _, row in read_path(path, sample_by)]


def places_of(path: Path, sample_by: str = "paragraph") -> list[str]:
    return [where.removeprefix(str(path)) for where, _ in read_path(path, sample_by)]


def texts_of(path: Path, sample_by: str) -> list[str]:
    return [row["text"] for row in rows_of(path, sample_by)]


def refused(path: Path, message: str, sample_by: str = "paragraph") -> None:
    """Reading raises InputError with the file and this message, in one line."""
    with pytest.raises(InputError, match=message) as caught:
        rows_of(path, sample_by)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def csv_of(rows: list[dict], delimiter: str) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def arrow_of(rows: list[dict], new) -> bytes:
    table, file = pa.Table.from_pylist(rows), io.BytesIO()
    with new(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def parquet_of(rows: list[dict]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()
CONTENTS = {
    "jsonl": LINES,
    "ndjson": LINES,
    "json": json.dumps(ROWS).encode(),
    "csv": csv_of(ROWS, ","),
    "tsv": csv_of(ROWS, "\t"),
    "parquet": parquet_of(ROWS),
    "arrow": arrow_of(ROWS, pa.ipc.new_file),
}
COMPRESS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
