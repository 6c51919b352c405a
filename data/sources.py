"""Reads raw rows from files and hub data sets. Each row comes with its place, for error messages."""

import gzip
import json
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import IO, Any, cast

from rlhf import InputError, first_line
from rlhf.rows import read_jsonl, read_lines

# files that datasets.load_dataset reads: suffix -> name of its builder
_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".arrow": "arrow"}

# characters; a longer paragraph is taken for a text without blank lines, in which each line is a document
MAX_PARAGRAPH = 20_000


def read_source(name: str, folder: str | None, sample_by: str) -> Iterator[tuple[str, Any]]:
    """(place, row) for every row of `name`: a file, a pattern of files, or a hub data set.

    Paths are relative to `folder`. A hub data set is "owner/name" or "owner/name/configuration"; ":split" after it
    selects another split than train ("test", "train[:1000]"). `sample_by` is the unit of a text file that becomes a
    document: a "line", a "paragraph" (separated by blank lines; a paragraph above MAX_PARAGRAPH is split into lines) or
    the whole "document". Raises InputError if nothing can be read.
    """
    pattern = path_of(name, folder)
    paths = sorted(map(Path, glob(str(pattern))))
    for path in paths:
        yield from _read_file(path, sample_by)
    if not paths:
        if pattern.suffix or name.startswith(("/", ".", "~")) or name.count("/") > 2:
            raise InputError(f"no file at {pattern}: name an existing one in the recipe")
        yield from _read_hub(name)


def path_of(name: str, folder: str | None) -> Path:
    """The path or pattern of a source in `folder`. For a hub data set no such file exists."""
    return Path(folder or "", name).expanduser()


def _read_file(path: Path, sample_by: str) -> Iterator[tuple[str, Any]]:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix == ".jsonl":
        yield from read_jsonl(path)
    elif suffix == ".json":
        yield from _read_json(path)
    elif suffix in _BUILDERS:
        options = {"delimiter": "\t"} if suffix == ".tsv" else {}
        yield from _load(str(path), _BUILDERS[suffix], data_files=str(path), **options)
    else:
        yield from _read_text(path, sample_by)


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    """The elements of a JSON array, or the values of a file with one JSON value per line."""
    text = "".join(line for _, line in read_lines(path))
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Extra data"):
            yield from read_jsonl(path)
            return
        raise InputError(f"{path}: not JSON ({error.msg} in line {error.lineno}, blank ones not counted)") from error
    except (RecursionError, ValueError) as error:  # brackets nested too deeply, or a number with too many digits
        raise InputError(f"{path}: no usable rows ({error})") from error
    for number, value in enumerate(values if isinstance(values, list) else [values], start=1):
        yield f"{path}, element {number}", value


def _read_text(path: Path, sample_by: str) -> Iterator[tuple[str, Any]]:
    if sample_by == "line":
        yield from ((where, {"text": line.strip()}) for where, line in read_lines(path))
        return
    # for the error, with its line, if a byte is not UTF-8; read_lines omits blank lines, so the text is read again
    for _ in read_lines(path):
        pass
    with _open_text(path) as file:
        text = file.read()
    parts = [text]
    if sample_by == "paragraph":
        paragraphs = text.split("\n\n")
        parts = [part for p in paragraphs for part in (p.splitlines() if len(p) > MAX_PARAGRAPH else [p])]
    for number, part in enumerate(filter(str.strip, parts), start=1):
        yield f"{path}, {sample_by} {number}", {"text": part.strip()}


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return cast(IO[str], gzip.open(path, "rt", encoding="utf-8-sig"))
    return open(path, encoding="utf-8-sig")


def _read_hub(name: str) -> Iterator[tuple[str, Any]]:
    dataset, _, split = name.partition(":")
    owner, _, rest = dataset.partition("/")
    repository, *configuration = rest.split("/")
    yield from _load(name, f"{owner}/{repository}", *configuration, split=split or "train")


def _load(source: str, *args: str, **kwargs: str) -> Iterator[tuple[str, Any]]:
    """The rows that datasets.load_dataset returns for these arguments."""
    import datasets  # here, because it takes a second, and plain files and the embedded world don't need it

    try:
        rows = datasets.load_dataset(*args, **{"split": "train", **kwargs})
    except Exception as error:  # datasets raises whatever its readers and the network raise
        raise InputError(
            f"{source}: datasets can't load it ({first_line(error)}); name an existing file or a hub data set"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{source}, row {number}", row
