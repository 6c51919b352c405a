"""Decodes files: UTF-8 with or without a byte order mark, UTF-16 and UTF-32 with one. Locates invalid bytes."""

import codecs
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import IO, TextIO, cast

from rlhf import InputError

MAX_LINE = 2**26  # characters of a line of JSON Lines or CSV; a longer one would have to be held in memory
HEAD = 8000  # bytes that are searched for a NUL byte to recognise a binary file, as git does
CHUNK = 2**16  # bytes read at once
LFS_POINTER = b"version https://git-lfs.github.com/spec/"

# byte order mark -> encoding whose decoder removes it; UTF-32 first, since its mark begins with that of UTF-16
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class Content:
    """The decompressed content of a file. It can be opened more than once."""

    name: str  # for messages
    open: Callable[[], AbstractContextManager[IO[bytes]]]

    @contextmanager
    def text(self, newline: str | None = None) -> Iterator[TextIO]:
        """The decoded content; `newline` is that of the builtin open().

        Raises InputError for a byte that can't be decoded (also while the text is read), and for a binary file.
        """
        with self.open() as file:
            head = file.read(HEAD)
            if head.startswith(LFS_POINTER):
                raise InputError(f"{self.name}: a pointer of Git LFS, not the file; `git lfs pull` downloads the file")
            encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "utf-8-sig")
            if encoding == "utf-8-sig" and b"\0" in head:
                raise InputError(
                    f"{self.name}: byte {head.index(0)} is NUL: a binary file, or UTF-16 without a byte order mark, "
                    "which iconv -f UTF-16LE -t UTF-8 converts"
                )
            counted = _Counted(head, file)
            try:
                yield io.TextIOWrapper(cast(IO[bytes], counted), encoding=encoding, newline=newline)
            except UnicodeDecodeError as error:
                raise InputError(counted.describe(error, self.name, encoding)) from error


class _Counted(io.BufferedIOBase):
    """Passes on the bytes of a file and counts them: a decoder knows only the position in its own chunk."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self.head, self.file, self.bytes, self.lines = head, file, 0, 0

    def readable(self) -> bool:
        return True

    def read1(self, size: int | None = -1) -> bytes:
        chunk, self.head = self.head or self.file.read(max(size or 0, CHUNK)), b""
        self.bytes += len(chunk)
        self.lines += chunk.count(b"\n")
        return chunk

    read = read1

    def describe(self, error: UnicodeDecodeError, name: str, encoding: str) -> str:
        """The message for a byte that can't be decoded."""
        offset = self.bytes - len(error.object) + error.start
        byte = f"byte 0x{error.object[error.start]:02X} at offset {offset:,}"
        if encoding != "utf-8-sig":
            return f"{name}: {byte} is not {encoding.upper()}, the encoding of the byte order mark ({error.reason})"
        line = self.lines - error.object.count(b"\n", error.start) + 1
        file = PurePath(name).name
        return (
            f"{name}:{line}: {byte} is not UTF-8 ({error.reason}); convert the file, for instance with "
            f"iconv -f CP1252 -t UTF-8 {file} > utf8-{file}"
        )


def bounded_lines(text: TextIO, name: str) -> Iterator[str]:
    """The lines of a text, with their ends. Raises InputError for a line of more than MAX_LINE characters."""
    for number, line in enumerate(iter(lambda: text.readline(MAX_LINE + 1), ""), start=1):
        if len(line) > MAX_LINE:
            raise InputError(
                f"{name}:{number}: a line of more than {MAX_LINE:,} characters; write each row on a line of its own"
            )
        yield line
