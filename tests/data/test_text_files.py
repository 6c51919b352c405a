"""Text: streamed documents are those of the whole text; long ones are cut."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data import text_files
from data.files import read_path
from tests.data.files import places_of, texts_of


def whole_text_documents(path: Path, sample_by: str, max_paragraph: int) -> list[tuple[str, str]]:
    """(place, text) of all documents, from the whole text of the file."""
    if sample_by == "line":
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
        return [(f"{path}:{number}", line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    text = path.read_text(encoding="utf-8-sig")
    parts = [text]
    if sample_by == "paragraph":
        paragraphs = text.split("\n\n")
        parts = [part for p in paragraphs for part in (p.splitlines() if len(p) > max_paragraph else [p])]
    parts = [part.strip() for part in parts if part.strip()]
    return [(f"{path}, {sample_by} {number}", part) for number, part in enumerate(parts, start=1)]


breaks = st.sampled_from(
    ["\n", "\n\n", "\n\n\n", "\r\n", "\r", "\r\n\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", " "]
)


@given(
    st.lists(breaks | st.text("ab é\u4e00\U0001f600", max_size=6), max_size=20).map("".join),
    st.integers(1, 7), st.integers(0, 8), st.booleans(),
)  # fmt: skip
@example("aa\n\nb", 1, 2, False)  # the paragraph is at the bound, and its separator is cut
@example("aaaa\x0b\n\nb", 5, 2, True)
@example("aaaa\n\n\nb\nb", 5, 2, True)
def test_streamed_text_gives_the_documents_of_the_whole_text(tmp_path_factory, text, chunk, max_paragraph, mark):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(("\ufeff" * mark + text).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "CHUNK", chunk)
        patch.setattr(text_files, "MAX_PARAGRAPH", max_paragraph)
        for sample_by in ("line", "paragraph", "document"):
            found = [(where, row["text"]) for where, row in read_path(path, sample_by)]
            assert found == whole_text_documents(path, sample_by, max_paragraph), sample_by


@pytest.mark.parametrize("sample_by", ["line", "paragraph", "document"])
def test_real_text_gives_the_documents_of_the_whole_text(shared, sample_by):
    for path in sorted((shared / "text").glob("*.txt")):
        found = [(where, row["text"]) for where, row in read_path(path, sample_by)]
        assert found == whole_text_documents(path, sample_by, 20_000), path.name


@given(st.text("ab  \n", max_size=60), st.integers(1, 9), st.integers(1, 9))
def test_cutting_long_text_loses_only_white_space(tmp_path_factory, text, chunk, limit):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"CHUNK": chunk, "MAX_LINE": limit, "MAX_DOCUMENT": limit, "MAX_PARAGRAPH": 2}.items():
            patch.setattr(text_files, name, value)
        for sample_by in ("line", "paragraph", "document"):
            documents = texts_of(path, sample_by)
            assert "".join("".join(documents).split()) == "".join(text.split())
            assert all(len(document) <= max(limit, 2) for document in documents)


def test_long_text_is_cut_at_a_space_and_a_whole_file_at_the_end_of_a_paragraph(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    monkeypatch.setattr(text_files, "MAX_PARAGRAPH", 5)
    monkeypatch.setattr(text_files, "MAX_LINE", 12)
    monkeypatch.setattr(text_files, "MAX_DOCUMENT", 12)
    path.write_text("aaa bbb ccc ddd eee")
    for sample_by in ("line", "paragraph"):
        assert texts_of(path, sample_by) == ["aaa bbb ccc", "ddd eee"]
    assert places_of(path, "line") == [":1", ":1"]
    path.write_text("aaa\n\nb b b\nb b b b\n\nccc")
    assert texts_of(path, "document") == ["aaa", "b b b", "b b b b\n\nccc"]
