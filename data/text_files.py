"""Cuts text files into documents: lines, paragraphs, or whole files."""

from collections.abc import Callable, Iterator
from typing import Any, TextIO

from data.encodings import Content

MAX_PARAGRAPH = 20_000  # characters; a longer one is split into lines, because the text seems to have no blank lines
MAX_LINE = 2**20  # characters of a line that becomes a document; a longer one is cut
MAX_DOCUMENT = 2**26  # characters of a whole file that becomes one document; a longer one is cut
CHUNK = 2**18  # characters read at once


def read_text(content: Content, sample_by: str) -> Iterator[tuple[str, Any]]:
    """(place, {"text"}) for every document that is not blank.

    `sample_by` is a "line", a "paragraph" (between blank lines; one above MAX_PARAGRAPH is split into lines) or the
    whole "document". Lines above MAX_LINE and documents above MAX_DOCUMENT are cut, so that memory is bounded.
    """
    if sample_by == "line":
        with content.text("\n") as text:
            for number, line in _lines(text):
                if line.strip():
                    yield f"{content.name}:{number}", {"text": line.strip()}
        return
    cut: Callable[[TextIO], Iterator[str]] = _paragraphs if sample_by == "paragraph" else _documents
    with content.text() as text:
        for number, part in enumerate(filter(str.strip, cut(text)), start=1):
            yield f"{content.name}, {sample_by} {number}", {"text": part.strip()}


def _lines(text: TextIO) -> Iterator[tuple[int, str]]:
    """(number, line); a line above MAX_LINE is cut, and its pieces have the same number."""
    number, rest = 1, ""
    while line := rest + text.readline(MAX_LINE - len(rest)):
        rest = ""
        if len(line) == MAX_LINE and not line.endswith("\n"):
            line, rest = _cut(line, MAX_LINE)
        yield number, line
        number += line.endswith("\n")


def _paragraphs(text: TextIO) -> Iterator[str]:
    """text.read().split("\\n\\n"), in which paragraphs above MAX_PARAGRAPH are split into lines."""
    rest, split = "", False  # split: whether the current paragraph has exceeded MAX_PARAGRAPH
    while chunk := text.read(CHUNK):
        *complete, rest = (rest + chunk).split("\n\n")
        for paragraph in complete:
            yield from _split(paragraph, split)
            split = False
        # a line break at the end may be the first of the two that end the paragraph
        split = split or len(rest) - rest.endswith("\n") > MAX_PARAGRAPH
        if split:
            *lines, rest = rest.splitlines(keepends=True)
            for line in lines:
                yield from _pieces(line, MAX_LINE)
            *pieces, rest = _pieces(rest, MAX_LINE)
            yield from pieces
    yield from _split(rest, split)


def _split(paragraph: str, split: bool) -> Iterator[str]:
    if not split and len(paragraph) <= MAX_PARAGRAPH:
        yield paragraph
        return
    for line in paragraph.splitlines(keepends=True):
        yield from _pieces(line, MAX_LINE)


def _pieces(text: str, limit: int) -> Iterator[str]:
    """The text, cut into pieces of up to `limit` characters. A line break at its end does not count."""
    while len(text) - text.endswith("\n") > limit:
        piece, text = _cut(text, limit)
        yield piece
    yield text


def _documents(text: TextIO) -> Iterator[str]:
    """The whole text, or pieces of up to MAX_DOCUMENT characters, cut at the end of a paragraph where there is one."""
    chunks: list[str] = []
    size = 0
    while chunk := text.read(CHUNK):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_DOCUMENT:
            *pieces, rest = _pieces("".join(chunks), MAX_DOCUMENT)
            yield from pieces
            chunks, size = [rest], len(rest)
    yield "".join(chunks)


def _cut(text: str, limit: int) -> tuple[str, str]:
    """Cuts within the first `limit` characters: after the last blank line, line break or space, else at `limit`."""
    for border in ("\n\n", "\n", " "):
        if (found := text.rfind(border, 0, limit)) > 0:
            return text[: found + len(border)], text[found + len(border) :]
    return text[:limit], text[limit:]
