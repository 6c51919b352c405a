"""Atomic writes (a file or folder is written under another name, flushed to disk, then renamed), JSON and SHA-256."""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf import InputError


def replace(partial: Path, path: Path, previous: Path | None = None) -> None:
    """Flushes a file or folder to disk and renames it to `path`.

    An existing folder at `path` is renamed to `previous`, or removed if `previous` is None.
    """
    for file in [partial, *partial.rglob("*")] if partial.is_dir() else [partial]:
        _flush(file)
    old = previous or path.with_name(f".{path.name}.old")
    if path.is_dir():
        set_aside(path, old)
    partial.replace(path)
    _flush(path.parent)
    if previous is None:
        _remove(old)


def set_aside(path: Path, previous: Path) -> None:
    """Renames a folder to `previous`, or to that name with a number if what is there can't be removed."""
    _remove(previous)
    names = (previous, *(previous.with_name(f"{previous.name}-{number}") for number in range(2, 1000)))
    path.rename(next(name for name in names if not os.path.lexists(name)))


def _remove(path: Path) -> None:
    """Removes a file, a link or a folder, as far as it can be removed."""
    if path.is_symlink() or path.is_file():
        with suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically. Raises ValueError for NaN and infinity, which JSON lacks."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file does not exist.

    Raises InputError if the file holds anything else.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); remove it") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: damaged; remove it")
    return value


def as_json(value: Any) -> Any:
    """The value after a round trip through JSON: tuples become lists, and keys strings."""
    return json.loads(json.dumps(value))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
