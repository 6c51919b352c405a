"""Encodings: what is decoded, and where the byte is that is not."""

import gzip
import json

import pytest

from tests.data.files import refused, rows_of, texts_of


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_utf_8_16_and_32_give_the_same_rows(tmp_path, encoding):
    mark = "" if encoding.startswith("utf-8") else "\ufeff"
    rows = [{"prompt": "é\U0001f600\u0a0a", "completion": "x"}]
    for suffix, text in {
        "jsonl": json.dumps(rows[0], ensure_ascii=False) + "\r\n",
        "json": json.dumps(rows, ensure_ascii=False),
        "csv": "prompt,completion\r\né\U0001f600\u0a0a,x\r\n",
    }.items():
        path = tmp_path / f"a.{suffix}"
        path.write_bytes((mark + text).encode(encoding))
        assert rows_of(path) == rows, suffix
    (tmp_path / "a.txt").write_bytes((mark + "é\r\n\r\nb").encode(encoding))
    assert texts_of(tmp_path / "a.txt", "paragraph") == ["é", "b"]


@pytest.mark.parametrize("before", [0, 7, 100_000])
def test_a_byte_that_is_not_utf_8_is_named_with_its_line_and_offset(tmp_path, before, capfd):
    good = "p,q\n" + "é, x\n" * before
    content = good.encode() + b"caf\xe9,x\n"
    for name, data in (("a.csv", content), ("a.txt", content), ("a.csv.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(data)
        offset = f"{len(good.encode()) + 3:,}"
        refused(tmp_path / name, rf":{before + 2}: byte 0xE9 at offset {offset} is not UTF-8 .*iconv -f CP1252")
    assert capfd.readouterr() == ("", "")


def test_a_file_that_ends_within_a_character_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("ab é".encode()[:-1])
    refused(tmp_path / "a.txt", ":1: byte 0xC3 at offset 3 is not UTF-8")
    (tmp_path / "b.txt").write_bytes("\ufeffab".encode("utf-16-le")[:-1])
    refused(tmp_path / "b.txt", "byte 0x62 at offset 4 is not UTF-16")


@pytest.mark.parametrize("content", ["text\n".encode("utf-16-le"), "text".encode("utf-16-be"), b"\x7fELF\x00\x01"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.unknown", "a"])
def test_binary_files_and_utf_16_without_a_mark_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "is NUL: a binary file, or UTF-16 without a byte order mark")
