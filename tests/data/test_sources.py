"""Sources: rows from every file format and from the Hub, and what is refused."""

import gzip
import json

import datasets
import pytest
from datasets import Dataset

from data import shapes
from data.sources import read_source
from rlhf import InputError
from rlhf.rows import Tally, valid_rows


def rows_of(path, sample_by="paragraph"):
    return [row for _, row in read_source(str(path), None, sample_by)]


# --- files ------------------------------------------------------------------------------------------------------------


def test_every_format_gives_the_same_rows(tmp_path):
    rows = [{"prompt": "a", "completion": "é"}, {"prompt": "b", "completion": "d"}]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "lines.json").write_text(lines, encoding="utf-8")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "d.csv").write_text("prompt,completion\na,é\nb,d\n", encoding="utf-8")
    (tmp_path / "e.tsv").write_text("prompt\tcompletion\na\té\nb\td\n", encoding="utf-8")
    Dataset.from_list(rows).to_parquet(tmp_path / "f.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert rows_of(path) == rows, path.name


def test_text_is_split_into_lines_or_paragraphs_or_kept_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("One\ntwo.\n\n\nThree.\n", encoding="utf-8")
    assert [row["text"] for row in rows_of(path, "line")] == ["One", "two.", "Three."]
    assert [row["text"] for row in rows_of(path, "paragraph")] == ["One\ntwo.", "Three."]
    assert [row["text"] for row in rows_of(path, "document")] == ["One\ntwo.\n\n\nThree."]


def test_each_line_of_a_very_long_paragraph_is_a_document(tmp_path):
    path = tmp_path / "speeches.txt"
    speeches = ["word " * 1000 + str(i) for i in range(5)]
    path.write_text("Short\nlines.\n\n" + "\n".join(speeches))
    assert [row["text"] for row in rows_of(path)] == ["Short\nlines.", *speeches]
    assert len(rows_of(path, "document")) == 1


def test_a_pattern_reads_all_matching_files_in_alphabetical_order(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert [row["text"] for _, row in read_source("*.txt", str(tmp_path), "line")] == ["a", "b"]


def test_the_place_of_a_row_is_its_file_and_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    assert [where for where, _ in read_source(str(path), None, "paragraph")] == [f"{path}:1", f"{path}:3"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.json", b'[{"a": 1},', "not JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a"\n', r"a\.jsonl:2"),
        ("a.txt", b"good\n\xff\xfe bad\n", r"a\.txt:2: .*UTF-8"),
        ("a.parquet", b"no parquet", "can't load"),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        rows_of(tmp_path / name)


def test_a_missing_file_and_an_unreachable_hub_id_are_refused(tmp_path):
    with pytest.raises(InputError, match="no file at"):
        list(read_source("missing.jsonl", str(tmp_path), "line"))
    with pytest.raises(InputError, match="datasets can't load it"):
        list(read_source("nobody/nothing:test", None, "line"))


def test_rows_are_never_executed(tmp_path):
    """Strings that are code to Python, YAML, Jinja, a shell, a spreadsheet or pickle come out of every reader unchanged."""
    ran = tmp_path / "ran"
    attacks = [
        f"__import__('os').mkdir('{ran}')", f"!!python/object/apply:os.mkdir ['{ran}']", f"$(mkdir {ran}); `mkdir {ran}`",
        f"{{{{ cycler.__init__.__globals__.os.mkdir('{ran}') }}}}", f"=cmd|' mkdir {ran}'!A1", f"cos\nmkdir\n(V{ran}\ntR.",
        "../../../etc/passwd", "<|endoftext|>", "%s%n{0.__class__}",
    ]  # fmt: skip
    rows = [{"prompt": text, "completion": text} for text in attacks]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    Dataset.from_list(rows).to_csv(tmp_path / "d.csv", index=False)
    Dataset.from_list(rows).to_parquet(tmp_path / "e.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert rows_of(path) == rows, path.name
        for row in rows:
            adapted = shapes.rows_of([("row", row)], "demonstrations", Tally())
            assert list(valid_rows(adapted, "demonstrations", Tally())) == [row]
    (tmp_path / "f.txt").write_text("\n\n".join(text for text in attacks if "\n" not in text))
    assert [row["text"] for row in rows_of(tmp_path / "f.txt")] == [text for text in attacks if "\n" not in text]
    assert not ran.exists()


# --- the Hub ----------------------------------------------------------------------------------------------------------


def test_a_hub_data_set_is_loaded_by_its_name_configuration_and_split(monkeypatch):
    """Records the arguments of datasets.load_dataset: the tests have no network."""
    calls = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **kwargs: calls.append((args, kwargs)) or [{"text": "a"}]
    )
    for name in ("owner/name", "owner/name:test[:5]", "owner/name/main:train"):
        assert [row for _, row in read_source(name, "some/folder", "line")] == [{"text": "a"}]
    assert calls == [
        (("owner/name",), {"split": "train"}),
        (("owner/name",), {"split": "test[:5]"}),
        (("owner/name", "main"), {"split": "train"}),
    ]
