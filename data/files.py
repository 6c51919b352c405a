"""Reads rows from files of all formats, also compressed ones and folders of them, one row at a time.

Memory does not grow with the file. Exceptions: JSON tables that are stored column by column, which may have up to
256 MB, and a file compressed as .parquet or .arrow, which is unpacked to a temporary file.
"""

import bz2
import gzip
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any

from data.encodings import Content
from data.json_files import read_json, read_json_lines
from data.table_files import read_arrow, read_csv, read_parquet
from data.text_files import read_text
from rlhf import InputError, first_line

RawRow = tuple[str, Any]  # place, for error messages; row

READERS: dict[str, Callable[[Content], Iterator[RawRow]]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": partial(read_csv, delimiter="\t"),
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
FORMATS = (*READERS, ".txt")
DECOMPRESSORS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

# beside the data in folders of data sets: descriptions, and the metadata of `datasets`
_DESCRIPTION_SUFFIXES = (".md", ".rst")
_DESCRIPTION_NAMES = ("readme", "license", "licence", "copying", "citation", "changelog", "notice")  # or with .txt
_METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json")

# what decompressors raise for damaged, encrypted and unsupported files
_DAMAGED = (
    OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error,
    ValueError, OverflowError,
)  # fmt: skip


def read_path(path: Path, sample_by: str) -> Iterator[RawRow]:
    """The rows of a file, or of all files of a folder and its subfolders, sorted by path.

    A file of an unknown suffix is read as text. In folders and zip archives it raises InputError instead, and hidden
    files and descriptions such as README.md are skipped. `sample_by` is described at `read_text`. Raises InputError,
    with the file, if it can't be read.
    """
    if path.is_dir():
        for file in _files(path):
            yield from read_path(file, sample_by)
        return
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a file and not a folder")
    try:
        if path.suffix.lower() == ".zip":
            yield from _read_zip(path, sample_by)
        else:
            yield from _read(str(path), path, lambda: open(path, "rb"), sample_by)  # noqa: SIM115 (the reader closes it)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"no file at {path}") from error
    except _DAMAGED as error:
        # an error with an errno comes from the system, for instance a missing permission: the file may be complete
        hint = "" if getattr(error, "errno", None) else "; is the file complete?"
        raise InputError(f"{path}: can't be read ({first_line(error)}){hint}") from error


def is_data(path: PurePath, name: str) -> bool:
    """False for a description or metadata. Raises InputError, which begins with `name`, for another unknown format."""
    suffix = path.suffix.lower()
    described = suffix in ("", ".txt") and path.stem.lower() in _DESCRIPTION_NAMES
    if described or suffix in _DESCRIPTION_SUFFIXES or path.name in _METADATA:
        return False
    if _format(path) in FORMATS or suffix == ".zip":
        return True
    raise InputError(
        f"{name}: its format is unknown; name the files to read, or a pattern, in place of the folder or archive "
        f"(formats: {' '.join(FORMATS)})"
    )


def _files(folder: Path) -> list[Path]:
    """The files with data in a folder."""
    found = sorted(path for path in folder.rglob("*") if not _hidden(path.relative_to(folder)))
    for path in found:
        # an error, because the rows would be missing: rglob does not follow links to folders
        if path.is_symlink() and not path.is_file():
            what = "a link to a folder; name that folder" if path.is_dir() else "a link to a file that does not exist"
            raise InputError(f"{path}: {what}")
    paths = [path for path in found if path.is_file()]
    # `datasets` saves state.json beside dataset_info.json
    saved = {path.parent for path in paths if path.name == "dataset_info.json"}
    files = [
        path for path in paths if not (path.name == "state.json" and path.parent in saved) and is_data(path, str(path))
    ]
    if not files:
        raise InputError(f"{folder}: the folder has no files with rows ({' '.join(FORMATS)})")
    return files


def _read_zip(path: Path, sample_by: str) -> Iterator[RawRow]:
    """The rows of the files in an archive, sorted by name. Nothing is unpacked to the disk."""
    with zipfile.ZipFile(path) as archive:
        members = {info: PurePosixPath(info.filename) for info in archive.infolist() if not info.is_dir()}
        visible = {info: name for info, name in members.items() if not _hidden(name)}
        if len(visible) == 1 and not next(iter(visible.values())).suffix:
            visible = {info: name.with_suffix(Path(path.stem).suffix) for info, name in visible.items()}  # a.csv.zip
        names = {info: f"{path}/{info.filename}" for info in visible}
        chosen = [info for info in visible if len(visible) == 1 or is_data(visible[info], names[info])]
        if not chosen:
            raise InputError(f"{path}: the archive has no files with rows ({' '.join(FORMATS)})")
        for info in sorted(chosen, key=lambda info: info.filename):
            if info.flag_bits & 1:
                raise InputError(f"{names[info]}: encrypted; unpack the archive")
            if visible[info].suffix.lower() == ".zip":
                raise InputError(f"{names[info]}: an archive in an archive; unpack the outer one")
            yield from _read(names[info], visible[info], partial(archive.open, info), sample_by)


def _read(
    name: str, path: PurePath, open_file: Callable[[], AbstractContextManager[IO[bytes]]], sample_by: str
) -> Iterator[RawRow]:
    """The rows of a file. The suffix of `path` gives the format."""
    if decompress := DECOMPRESSORS.get(path.suffix.lower()):
        open_file = partial(_decompressed, open_file, decompress)
    content = Content(name, open_file)
    reader = READERS.get(_format(path))
    yield from reader(content) if reader else read_text(content, sample_by)


@contextmanager
def _decompressed(
    open_file: Callable[[], AbstractContextManager[IO[bytes]]], decompress: Callable[..., IO[bytes]]
) -> Iterator[IO[bytes]]:
    with open_file() as file, decompress(file, "rb") as content:
        yield content


def _format(path: PurePath) -> str:
    """The suffix of a file in lower case, without a compression suffix."""
    return Path(path.stem if path.suffix.lower() in DECOMPRESSORS else path.name).suffix.lower()


def _hidden(path: PurePath) -> bool:
    return any(part == "__MACOSX" or (part[0] == "." and part != "..") for part in path.parts)
