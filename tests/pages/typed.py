"""Finds numbers that were typed into a page: in tables and in prose outside of marked blocks."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.pages.blocks import BLOCK

# what looks like a number but is none that was measured: code, addresses of links, papers, versions, dates, names
NO_NUMBER = re.compile(
    r"`[^`]*`|\]\([^)]*\)|arXiv\s+\d{4}\.\d{4,5}|\(\d{4}\.\d{5}\)|Apache-2\.0"
    r"|\b(?:TRL|trl|torch|transformers|Python|xllamacpp|llama-cpp-python)(?:'s\s\w+)?\s(?:of\s)?\d[\d.]*\d"
    r"|\b\d{4}-\d{2}-\d{2}\b|95\s%(?:\spercentile\sbootstrap)?\s(?:intervals?|置信区间)"
    r"|\bappendix\s\w\.\d|\b(?:sections?|figures?)\s\d(?:\.\d)?|[第图]\s\d(?:\.\d)?(?:\s节)?"
)
UNIT = r"(?:%|s|ms|seconds?|min|minutes?|hours?|MB|GB|kB|MiB|times|GFLOP/s|nats)(?![\w])"
# a decimal, or a whole number with a unit that is measured
MEASURED = re.compile(rf"(?<![\w.])(?:\d*\.\d+(?![\w.]*\d)|\d[\d,]*(?: to \d[\d,]*)? ?{UNIT})")
TABLE = re.compile(r"^\|.*\n\|(?:[ :-]*-{3}[ :-]*\|)+\n((?:\|.*\n?)+)", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Typed:
    """A number in a page that no file backs."""

    heading: str
    text: str  # the cell, or the number with the words around it


def sections(page: str) -> Iterator[tuple[str, str]]:
    """The heading and the text of each section, the title's first, without marked blocks and code."""
    parts = re.split(r"^#+ (.+)$", FENCE.sub("", BLOCK.sub("", page)), flags=re.MULTILINE)
    yield from zip(["", *parts[1::2]], (NO_NUMBER.sub("", text) for text in parts[::2]), strict=True)


def typed_cells(page: str) -> list[Typed]:
    """The cells of tables that are numbers, or have measured ones."""
    return [
        Typed(heading, cell.strip())
        for heading, text in sections(page)
        for rows in TABLE.findall(text + "\n")
        for line in rows.splitlines()
        for cell in line.strip("| ").split("|")
        if MEASURED.search(cell) or re.fullmatch(r"[*~–±]*\d[\d,./ ±–*k†‡]*", cell.strip())
    ]


def typed_prose(page: str, allowed: Iterable[str] = ()) -> list[Typed]:
    """The measured numbers of sentences, with the words around them, but those in the words that are `allowed`."""
    found = []
    for heading, text in sections(page):
        words = re.sub(r"\s+", " ", TABLE.sub("", text + "\n"))
        for phrase in allowed:
            words = words.replace(phrase, "")
        found += [
            Typed(heading, words[max(0, match.start() - 40) : match.end() + 30].strip())
            for match in MEASURED.finditer(words)
        ]
    return found
