"""Files of every format: compression, folders, archives, damage, and unknown formats."""

import gzip
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf import InputError
from tests.data.files import (
    COMPRESS,
    CONTENTS,
    LINES,
    ROWS,
    arrow_of,
    parquet_of,
    places_of,
    refused,
    rows_of,
    texts_of,
    zip_of,
)

# --- formats and compression ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz", "zip"])
@pytest.mark.parametrize("suffix", CONTENTS)
def test_every_format_gives_the_same_rows_compressed_or_not_in_any_case_of_letters(tmp_path, suffix, compression):
    content = CONTENTS[suffix]
    for name in (f"a.{suffix}", f"B.{suffix.upper()}"):
        packed = zip_of({name: content}) if compression == "zip" else COMPRESS.get(compression, bytes)(content)
        for ending in {compression, compression.upper()}:
            path = tmp_path / f"{name}.{ending}".rstrip(".")
            path.write_bytes(packed)
            assert rows_of(path) == ROWS, path.name


@pytest.mark.parametrize("compression", COMPRESS)
def test_compressed_text_gives_the_documents_of_the_text(tmp_path, compression):
    path = tmp_path / f"a.TXT.{compression}"
    path.write_bytes(COMPRESS[compression](b"One\ntwo.\n\nThree."))
    assert texts_of(path, "paragraph") == ["One\ntwo.", "Three."]
    assert texts_of(path, "line") == ["One", "two.", "Three."]


def test_pandas_writes_what_is_read(tmp_path):
    """All orients of to_json, and the compressions of to_csv, to_json and to_parquet."""
    table, rows = pd.DataFrame(ROWS), ROWS
    for orient in ("columns", "index", "list", "records", "split"):
        path = tmp_path / f"{orient}.json"
        text = json.dumps(table.to_dict("list")) if orient == "list" else table.to_json(orient=orient)
        path.write_text(text)
        assert rows_of(path) == rows, orient
    table.to_json(tmp_path / "table.json", orient="table")
    assert rows_of(tmp_path / "table.json") == [{"index": number, **row} for number, row in enumerate(rows)]
    for compression in ("gz", "bz2", "xz", "zip"):
        table.to_json(tmp_path / f"a.jsonl.{compression}", orient="records", lines=True)
        table.to_csv(tmp_path / f"a.csv.{compression}", index=False)
        assert rows_of(tmp_path / f"a.jsonl.{compression}") == rows_of(tmp_path / f"a.csv.{compression}") == rows
    table.to_parquet(tmp_path / "a.parquet", index=False)
    assert rows_of(tmp_path / "a.parquet") == rows


def test_an_arrow_stream_is_read_like_an_arrow_file(tmp_path):
    path = tmp_path / "a.arrow"
    path.write_bytes(arrow_of(ROWS, pa.ipc.new_stream))
    assert rows_of(path) == ROWS


def test_values_of_parquet_keep_their_types(tmp_path):
    row = {
        "prompt": [{"role": "user", "content": "q"}], "score": 0.5, "count": 2**40, "flag": True, "missing": None,
        "time": datetime(2020, 1, 2, 3, 4, 5), "price": Decimal("1.50"), "raw": b"\x00\xff", "nested": {"a": [[1], []]},
    }  # fmt: skip
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet_of([row]))
    assert rows_of(path) == [row]


def test_places_name_the_line_the_element_or_the_row(tmp_path):
    contents = {
        "a.jsonl": ('{"a": 1}\n\n{"a": 2}\n', [":1", ":3"]),
        "a.csv": ('\na\n"x\ny"\n\nz\n', [":3", ":6"]),
        "array.json": ("[1,\n2]", [", element 1", ", element 2"]),
        "lines.json": ('\n{"a": 1}\n\n{"a": 2}', [":2", ":4"]),
        "one.json": ('\n{"a": 1}\n', [", element 1"]),
        "key.json": ('{"n": 1, "data": [{}, {}]}', [", element 1", ", element 2"]),
        "columns.json": ('{"a": {"0": 1, "1": 2}}', [", row 1", ", row 2"]),
    }
    for name, (content, places) in contents.items():
        (tmp_path / name).write_text(content)
        assert places_of(tmp_path / name) == places, name
    for suffix in ("parquet", "arrow"):
        (tmp_path / f"a.{suffix}").write_bytes(CONTENTS[suffix])
        assert places_of(tmp_path / f"a.{suffix}") == [", row 1", ", row 2"]


# --- folders, archives, unknown formats -------------------------------------------------------------------------------


def test_a_folder_is_read_with_its_subfolders_in_the_order_of_the_paths(tmp_path):
    for name in ("b/x.txt", "b/a/y.jsonl", "a.csv.gz", "c.zip", "b/.hidden.txt", ".git/z.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = b'{"text": "b/a/y"}' if name.endswith("jsonl") else name.encode()
        text = gzip.compress(b"text\na") if name.endswith(".gz") else text
        path.write_bytes(zip_of({"c.txt": b"c"}) if name.endswith(".zip") else text)
    for name in ("README.md", "LICENSE", "b/readme.TXT", "b/notes.rst", "dataset_infos.json"):
        (tmp_path / name).write_text("{}")
    assert texts_of(tmp_path, "line") == ["a", "b/a/y", "b/x.txt", "c"]


def test_a_folder_that_datasets_saved_is_read_without_its_metadata(tmp_path):
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert rows_of(tmp_path / "saved") == ROWS
    (tmp_path / "state.json").write_text('{"text": "of a user"}')
    (tmp_path / "saved").rename(tmp_path / ".saved")
    assert rows_of(tmp_path) == [{"text": "of a user"}]


@pytest.mark.parametrize("name", ["a.pdf", "script.py", "data", "a.gz", "a.log.gz"])
def test_a_file_of_unknown_format_in_a_folder_or_archive_is_refused(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / name).write_bytes(gzip.compress(b"words") if name.endswith(".gz") else b"words")
    with pytest.raises(InputError, match=f"{name}: its format is unknown; name the files.*jsonl"):
        rows_of(folder)
    (tmp_path / "a.zip").write_bytes(zip_of({"a.txt": b"a", name: b"words"}))
    refused(tmp_path / "a.zip", f"{name}: its format is unknown")
    assert texts_of(folder / name, "line") == ["words"]  # named, it is text


def test_an_empty_folder_or_archive_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("words")
    refused(tmp_path, "has no files")
    (tmp_path / "a.zip").write_bytes(zip_of({"b/": b"", "__MACOSX/b.txt": b"x", ".DS_Store": b"x"}))
    refused(tmp_path / "a.zip", "has no files")


def test_all_files_of_a_zip_archive_are_read_sorted_by_name(tmp_path):
    members = {
        "d/b.jsonl": b'{"text": "b"}', "d/": b"", "__MACOSX/d/._b.jsonl": b"\0", "d/a.TXT": b"a", "README.md": b"x",
        ".hidden.txt": b"x", "e/c.csv.gz": gzip.compress(b"text,n\nc,1\n"), "../../f.parquet": parquet_of([{"text": "f"}]),
    }  # fmt: skip
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of(members))
    assert texts_of(path, "line") == ["f", "a", "b", "c"]
    assert places_of(path, "line")[1:3] == ["/d/a.TXT:1", "/d/b.jsonl:1"]
    assert list(tmp_path.iterdir()) == [path]


def test_the_only_member_of_an_archive_without_a_suffix_has_the_format_of_the_archives_name(tmp_path):
    (tmp_path / "a.jsonl.zip").write_bytes(zip_of({"a": LINES}))
    assert rows_of(tmp_path / "a.jsonl.zip") == ROWS


def test_encrypted_and_nested_archives_are_refused(tmp_path):
    content = bytearray(zip_of({"a.txt": b"words"}))
    content[6] |= 1  # the flag of the member
    content[content.index(b"PK\x01\x02") + 8] |= 1  # and of its entry in the directory
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", "a.txt: encrypted")
    (tmp_path / "b.zip").write_bytes(zip_of({"a.zip": zip_of({"a.txt": b"words"})}))
    refused(tmp_path / "b.zip", "archive in an archive")


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["txt.gz", "txt.bz2", "txt.xz", "zip", "parquet", "arrow", "parquet.gz", "arrow.xz"])
@pytest.mark.parametrize("damage", ["truncated", "overwritten", "other", "empty"])
def test_a_damaged_file_is_refused(tmp_path, suffix, damage):
    text = "".join(f"word {number * 7919 % 10_007}\n" for number in range(20_000))
    rows = [{"text": line} for line in text.split("\n")]
    inner, _, compression = suffix.rpartition(".")
    content = {"parquet": parquet_of, "arrow": lambda rows: arrow_of(rows, pa.ipc.new_file)}
    if suffix == "zip":
        data = zip_of({"a.txt": text.encode()})
    elif not inner:
        data = content[suffix](rows)
    else:
        data = COMPRESS[compression](content[inner](rows) if inner in content else text.encode())
    half = len(data) // 2
    if damage == "overwritten" and suffix in ("arrow", "parquet"):
        half = len(data) - 40  # their checksums are optional: the metadata at the end is overwritten
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(
        {"truncated": data[:half], "overwritten": data[:half] + b"\xff" * 32 + data[half + 32 :],
         "other": b"no such file", "empty": b""}[damage]
    )  # fmt: skip
    if damage == "empty" and suffix in ("txt.gz", "txt.bz2"):
        return  # valid: no members
    refused(path, "can't be read")


def test_a_missing_file_a_link_to_one_and_a_device_are_refused(tmp_path):
    refused(tmp_path / "a.txt", "no file at")
    (tmp_path / "link.txt").symlink_to(tmp_path / "missing.txt")
    refused(tmp_path / "link.txt", "no file at")
    with pytest.raises(InputError, match="not a file and not a folder"):
        rows_of(Path("/dev/null"))


def test_tables_with_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    pq.write_table(table, tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "several columns have the name prompt")


SUFFIXES = [*CONTENTS, "txt", "unknown", "zip", *(f"{s}.{c}" for s in ("txt", "json", "parquet") for c in COMPRESS)]


@given(st.data())
def test_random_bytes_are_read_or_refused(tmp_path_factory, data):
    """Random bytes, and valid files with some bytes changed or cut off."""
    suffix = data.draw(st.sampled_from(SUFFIXES))
    valid = CONTENTS.get(suffix.split(".")[0], b"One\n\ntwo") if suffix != "zip" else zip_of({"a.txt": b"One\n\ntwo"})
    for compression in suffix.split(".")[1:]:
        valid = COMPRESS[compression](valid)
    changed = bytearray(valid)
    for _ in range(data.draw(st.integers(0, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(changed[: data.draw(st.integers(0, len(changed)) | st.just(len(changed)))])
    path = tmp_path_factory.mktemp("random") / f"a.{suffix}"
    path.write_bytes(data.draw(st.binary(max_size=40) | st.just(cut)))
    for sample_by in ("line", "paragraph", "document"):
        try:
            rows_of(path, sample_by)
        except InputError as error:
            assert str(path) in str(error)


def test_a_link_in_a_folder_whose_rows_would_be_missing_is_refused(tmp_path):
    """A copied cache of the hub has links without their files."""
    (tmp_path / "a.jsonl").write_bytes(LINES)
    link = tmp_path / "b.jsonl"
    link.symlink_to("missing.jsonl")
    refused(tmp_path, "b.jsonl: a link to a file that does not exist")
    link.unlink()
    (tmp_path / "b").symlink_to(tmp_path, target_is_directory=True)
    refused(tmp_path, "b: a link to a folder; name that folder")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_pointer_of_git_lfs_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    refused(path, "a pointer of Git LFS, not the file")


def test_a_csv_file_without_a_header_line_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\n")
    refused(path, "the file is empty")
