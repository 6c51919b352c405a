"""CSV, TSV, Parquet and Arrow: delimiters, quotes, types, and what is refused."""

import pytest

from tests.data.files import ROWS, csv_of, refused, rows_of


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_csv_is_that_of_the_header(tmp_path, delimiter):
    (tmp_path / "a.csv").write_bytes(csv_of(ROWS, delimiter))
    assert rows_of(tmp_path / "a.csv") == ROWS
    (tmp_path / "b.csv").write_text(f'"a,;\t|b"{delimiter}c\n1{delimiter}2\n')
    assert rows_of(tmp_path / "b.csv") == [{"a,;\t|b": "1", "c": "2"}]


def test_values_of_csv_are_text(tmp_path):
    words = ["None", "null", "NA", "nan", "2", "007", "1e3", "true", "", " x ", "2020-01-01", "[1]", "#", "'"]
    (tmp_path / "a.csv").write_text("".join(f"{word},-\n" for word in ["prompt", *words]).replace("-", "x", 1))
    assert [row["prompt"] for row in rows_of(tmp_path / "a.csv")] == words
    (tmp_path / "a.tsv").write_text("prompt\tx\n" + "".join(f"{word}\t-\n" for word in words))
    assert [row["prompt"] for row in rows_of(tmp_path / "a.tsv")] == words


def test_quoted_fields_of_csv_keep_line_breaks_delimiters_and_quotes(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'a, b \r\n"x\r\ny","1,""2"""\r\n\r\n  \r\nz,3')
    assert rows_of(tmp_path / "a.csv") == [{"a": "x\r\ny", "b": '1,"2"'}, {"a": "z", "b": "3"}]
    (tmp_path / "b.csv").write_bytes(b"a,b\r1,2\r")
    assert rows_of(tmp_path / "b.csv") == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "the file is empty"),
        (",prompt\n0,q\n", r":1: column 1 has no name.*index"),
        ("a,b,a\n1,2,3\n", ':1: two columns have the name "a"'),
        ("a,b\n\n1,2\n3\n", ":4: 1 fields, but the header has 2"),
        ("a,b\n1,2,3\n", ":2: 3 fields"),
        ("prompt\nhello, you\n", ":2: 2 fields"),
        ('a,b\n1,2\n3,"x\ny\n', ":3: not CSV .*close quoted fields"),
        ('a,b\n"x"y,2\n', ":2: not CSV"),
        ("a,b;c\n1,2;3\n", "which of ',' ';'"),
    ],
)
def test_malformed_csv_is_refused_with_its_line(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    refused(tmp_path / "a.csv", message)
