"""Memory is bounded for files and rows of any length."""

import gzip
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.files import read_path
from tests.data.files import refused


def peak_memory(path: Path, sample_by: str) -> int:
    """Bytes that Python holds at most while the rows are read and dropped."""
    tracemalloc.start()
    try:
        for _ in read_path(path, sample_by):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "name, beginning, row, end, sample_by",
    [
        ("a.jsonl", "", '{"prompt": "PLACE"}\n', "", "line"),
        ("lines.json", "", '{"prompt": "PLACE"}\n', "", "line"),
        ("array.json", "[", '{"prompt": "PLACE"},', "1]", "line"),
        ("key.json", '{"data": [', '{"prompt": "PLACE"},', '{"prompt": "x"}], "version": 1}', "line"),
        ("a.csv", "prompt,x\n", "PLACE,1\n", "", "line"),
        ("a.txt", "", "PLACE\n", "", "line"),
        ("a.txt", "", "PLACE\n\n", "", "paragraph"),
        ("lines.txt", "", "PLACE\n", "", "paragraph"),
    ],
)
def test_memory_does_not_grow_with_the_file(tmp_path, name, beginning, row, end, sample_by):
    """20 MB of rows are read with less than 4 MB; compressed, too."""
    text = beginning + row.replace("PLACE", "word " * 800) * 5000 + end
    assert len(text) > 20e6
    path = tmp_path / name
    path.write_text(text)
    assert peak_memory(path, sample_by) < 4e6
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode(), 1))
    assert peak_memory(tmp_path / f"{name}.gz", sample_by) < 4e6


def test_parquet_is_read_in_batches(tmp_path):
    """A file of 32 MB in one row group is read with less than 8 MB of Arrow's memory."""
    table = pa.table({"prompt": [f"{number} " * 200 for number in range(30_000)]})
    assert table.nbytes > 30e6
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=30_000, use_dictionary=False, compression="none")
    del table
    before, most = pa.total_allocated_bytes(), 0
    for number, _ in enumerate(read_path(tmp_path / "a.parquet", "line")):
        if number % 100 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < 8e6


def test_a_line_without_end_is_refused_before_it_is_read_whole(tmp_path):
    """A gzip file of 100 kB that unpacks to 100 MB."""
    bomb = gzip.compress(b'{"a": "' + b"a" * 100_000_000, 1)
    for name, where in (("a.jsonl.gz", ":1"), ("a.csv.gz", ":1"), ("a.json.gz", "more than 67,108,864 characters")):
        (tmp_path / name).write_bytes(bomb)
        refused(tmp_path / name, where)
    (tmp_path / "b.csv").write_bytes(b'a,b\n1,"' + (b"a" * 1000 + b"\n") * 70_000)
    refused(tmp_path / "b.csv", ":2: not CSV .*field limit")
