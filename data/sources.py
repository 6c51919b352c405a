"""Raw rows of any file or hub data set, each with the place it stands at, for error messages."""

import gzip
import json
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

import datasets

from rlhf.data import read_jsonl, read_lines
from rlhf.errors import InputError

# what datasets.load_dataset reads itself: suffix -> its builder
_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".arrow": "arrow"}

LONGEST = 20_000  # characters of a paragraph: what is longer was written without blank lines


def read_source(name: str, folder: str | None, sample_by: str) -> Iterator[tuple[str, Any]]:
    """(place, row) for every row of `name`: a file, a pattern of files, or a hub data set.

    Files are looked for in `folder`. A hub data set is "owner/name" or "owner/name/configuration", its train split, or
    the same with ":split" and any split that datasets knows ("test", "train[:1000]"). `sample_by` says what a document of a text file is: a "line", a
    "paragraph" (blank lines between them; of one beyond 20,000 characters each line) or the whole "document". Raises
    InputError where nothing can be read.
    """
    pattern = Path(folder or "", name).expanduser()
    paths = sorted(map(Path, glob(str(pattern))))
    for path in paths:
        yield from _read_file(path, sample_by)
    if not paths:
        if pattern.suffix or name.startswith(("/", ".", "~")) or name.count("/") > 2:
            raise InputError(f"no file at {pattern}: name an existing one in the recipe")
        yield from _read_hub(name)


def _read_file(path: Path, sample_by: str) -> Iterator[tuple[str, Any]]:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix == ".jsonl":
        yield from read_jsonl(path)
    elif suffix == ".json":
        yield from _read_json(path)
    elif suffix in _BUILDERS:
        options = {"delimiter": "\t"} if suffix == ".tsv" else {}
        yield from _rows(datasets.load_dataset, str(path), _BUILDERS[suffix], data_files=str(path), **options)
    else:
        yield from _read_text(path, sample_by)


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    """The elements of one JSON array; a file of JSON values line by line is read as such."""
    text = "".join(line for _, line in read_lines(path))
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Extra data"):
            yield from read_jsonl(path)
            return
        raise InputError(f"{path}: not JSON ({error.msg} in line {error.lineno}, blank ones not counted)") from error
    except (RecursionError, ValueError) as error:  # brackets without end, a number of thousands of digits
        raise InputError(f"{path}: no rows that make sense ({error})") from error
    for number, value in enumerate(values if isinstance(values, list) else [values], start=1):
        yield f"{path}, element {number}", value


def _read_text(path: Path, sample_by: str) -> Iterator[tuple[str, Any]]:
    if sample_by == "line":
        yield from ((where, {"text": line.strip()}) for where, line in read_lines(path))
        return
    # read_lines says where a byte is not UTF-8, but leaves blank lines out
    for _ in read_lines(path):
        pass
    text = (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig").read()
    parts = [text]
    if sample_by == "paragraph":
        paragraphs = text.split("\n\n")
        parts = [part for p in paragraphs for part in (p.splitlines() if len(p) > LONGEST else [p])]
    for number, part in enumerate(filter(str.strip, parts), start=1):
        yield f"{path}, {sample_by} {number}", {"text": part.strip()}


def _read_hub(name: str) -> Iterator[tuple[str, Any]]:
    dataset, _, split = name.partition(":")
    owner, _, rest = dataset.partition("/")
    repository, *configuration = rest.split("/")
    yield from _rows(datasets.load_dataset, name, f"{owner}/{repository}", *configuration, split=split or "train")


def _rows(load, what: str, *args, **kwargs) -> Iterator[tuple[str, Any]]:
    kwargs.setdefault("split", "train")
    try:
        rows = load(*args, **kwargs)
    except Exception as error:  # datasets raises whatever its readers and its network do
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{what}: datasets can't load it ({first}); is it a file, or the id of a hub data set?"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{what}, row {number}", row
