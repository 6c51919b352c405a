"""Sources: rows from every file format and from the Hub, and what is refused."""

import gzip
import json
import logging
import warnings

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
        ("a.parquet", b"no parquet", "can't be read"),
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


@pytest.mark.parametrize(
    "name",
    ["a.JSONL", "chats.csv.gz", "chats.tar.gz", "./chats", "/chats", "~/chats", "*.txt", "a/b/c/d", "a/", "my chats",
     "chats.md", "chats.jsonl:train", "a" * 300 + ".txt", "json", "csv", "parquet", "text", "data", "data/world"],
)  # fmt: skip
def test_a_missing_path_is_not_looked_up_on_the_hub(name, monkeypatch, tmp_path):
    """Neither the names of readers of `datasets`, which would read the working directory, nor folders in it."""
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: pytest.fail("looked up"))
    with pytest.raises(InputError, match="no file"):
        list(read_source(name, str(tmp_path / "empty"), "line"))


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


# --- files, folders and patterns ---------------------------------------------------------------------------------------


def test_a_file_whose_name_is_a_pattern_is_read_itself(tmp_path):
    (tmp_path / "a[1].txt").write_text("itself")
    (tmp_path / "a1.txt").write_text("match of the pattern")
    assert rows_of(tmp_path / "a[1].txt") == [{"text": "itself"}]


def test_a_folder_and_a_pattern_that_matches_folders_read_the_files_in_them(tmp_path):
    for name in ("en/b.txt", "en/a.txt", "de/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [row["text"] for _, row in read_source("en", str(tmp_path), "line")] == ["en/a.txt", "en/b.txt"]
    assert [row["text"] for _, row in read_source("*", str(tmp_path), "line")] == ["de/c.txt", "en/a.txt", "en/b.txt"]


def test_a_source_without_a_name_is_not_the_folder(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(InputError, match="without a name"):
        list(read_source("", str(tmp_path), "line"))


def test_a_pattern_reads_files_of_unknown_format_only_if_it_has_their_suffix(tmp_path):
    for name in ("README.md", "a.txt", "b.log"):
        (tmp_path / name).write_text(name)
    assert rows_of(tmp_path / "*.md") == [{"text": "README.md"}]
    assert rows_of(tmp_path / "b.log") == [{"text": "b.log"}]
    with pytest.raises(InputError, match="b.log: its format is unknown"):
        rows_of(tmp_path / "*")
    (tmp_path / "b.log").unlink()
    assert rows_of(tmp_path / "*") == [{"text": "a.txt"}]


# rows that each file of the folder gives; README.md of that folder says what they become
ROWS_OF_CASES = {"control_characters.jsonl": 30, "silent.jsonl": 6}


def test_every_case_is_read_except_the_one_in_another_encoding(cases):
    for path in sorted(cases.iterdir()):
        if path.name == "cp1252.csv":
            with pytest.raises(InputError, match=r"cp1252\.csv:2: byte 0xE9 at offset 21 .*iconv -f CP1252 -t UTF-8"):
                rows_of(path)
        else:
            assert len(rows_of(path)) == ROWS_OF_CASES.get(path.name, 12), path.name


def test_cases_of_the_same_rows_in_many_formats_give_these_rows(cases):
    rows = [{"prompt": f"q{number}", "completion": f" a{number}"} for number in range(12)]
    names = """bom_crlf.jsonl ndjson.ndjson upper.JSONL x.jsonl.bz2 x.jsonl.xz x.zip
               pandas_cols.json pandas_records.json toplevel_data.json semi.csv""".split()
    for name in names:
        assert rows_of(cases / name) == rows, name
    without_every_third = [{**row, "completion": "" if n % 3 == 0 else row["completion"]} for n, row in enumerate(rows)]
    assert rows_of(cases / "nan.csv") == without_every_third


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


def test_names_without_an_owner_and_with_dots_can_be_hub_data_sets(monkeypatch):
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: calls.append((args, kwargs)) or [1])
    for name in ("squad", "squad:validation", "owner/name.v1.5", "owner/name/a.b-c:test[10%:]"):
        assert list(read_source(name, "some/folder", "line")) == [(f"{name}, row 1", 1)]
    assert calls == [
        (("squad",), {"split": "train"}),
        (("squad",), {"split": "validation"}),
        (("owner/name.v1.5",), {"split": "train"}),
        (("owner/name", "a.b-c"), {"split": "test[10%:]"}),
    ]


def test_a_file_of_the_hub_is_downloaded_and_read_by_its_suffix(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a"}\n'))

    def download(repository, path, repo_type, revision):
        asked.append((repository, path, repo_type, revision))
        return str(tmp_path / "train.jsonl.gz")

    monkeypatch.setattr(huggingface_hub.HfFileSystem, "_repo_and_revision_exist", lambda *args: (True, None))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    names = (
        "hf://datasets/owner/name/some/train.jsonl.gz",
        "hf://datasets/owner/name@refs/convert/parquet/a/train.jsonl.gz",
    )
    for name in names:
        assert [row for _, row in read_source(name, "elsewhere", "line")] == [{"prompt": "a"}]
    assert asked[0][:3] == ("owner/name", "some/train.jsonl.gz", "dataset")
    assert asked[1] == ("owner/name", "a/train.jsonl.gz", "dataset", "refs/convert/parquet")


def test_a_file_of_the_hub_that_can_not_be_downloaded_is_named(monkeypatch):
    with pytest.raises(InputError, match="hf://datasets/no/such/file.jsonl: can't be downloaded"):
        list(read_source("hf://datasets/no/such/file.jsonl", None, "line"))


def test_rows_of_the_hub_are_read_one_at_a_time(monkeypatch):
    def endless():
        yield from ({"text": str(number)} for number in range(10**18))

    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: endless())
    assert next(read_source("owner/name", None, "line")) == ("owner/name, row 1", {"text": "0"})


@pytest.mark.parametrize("offline", [False, True])
def test_an_error_of_the_hub_is_one_line_and_says_if_the_hub_is_off(monkeypatch, capfd, offline):
    def fail(*args, **kwargs):
        logging.getLogger("datasets.builder").error("a line of the library")
        logging.getLogger("huggingface_hub.utils").error("Retrying")
        warnings.warn("a warning of the library", stacklevel=1)
        for _ in datasets.utils.tqdm(range(3)):
            pass
        raise ConnectionError("Couldn't reach it\nmore lines")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    with pytest.raises(InputError) as caught:
        list(read_source("owner/name", None, "line"))
    assert str(caught.value).startswith(
        "owner/name: no file at owner/name, and datasets can't load it (Couldn't reach it)"
    )
    assert ("HF_HUB_OFFLINE" in str(caught.value)) is offline
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_failed_download_gives_the_reason_of_the_reader(monkeypatch):
    def fail(*args, **kwargs):
        raise datasets.exceptions.DatasetGenerationError("An error occurred") from ValueError("bad column\n...")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match="can't load it .bad column"):
        list(read_source("owner/name", None, "line"))


def test_an_error_of_the_hub_while_rows_are_read_is_refused(monkeypatch):
    def rows():
        yield {"text": "a"}
        raise OSError("connection lost")

    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: rows())
    with pytest.raises(InputError, match="connection lost"):
        list(read_source("owner/name", None, "line"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("~nobody-here/a.jsonl", "there is no such user"),
        ("x" * 5000, "no file at"),
        ("x/" + "y" * 300, "no file at"),
        ("https://example.com/a.jsonl", "download the file"),
        ("s3://bucket/a.jsonl", "download the file"),
    ],
)
def test_names_that_no_file_can_have_are_refused_without_asking_the_hub(name, message):
    with pytest.raises(InputError, match=message):
        list(read_source(name, None, "line"))
