"""Splits rows into training, test and validation rows, on disk. Memory holds a few bytes for each row.

A share of each kind's prompts, or texts, is held out. A row of any kind with a held-out prompt is a test row. Further
prompts may be held out for validation.
"""

import json
import random
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from rlhf.rows import Row, to_line, without_weights

FEW = 5  # with at least this many prompts, at least one is held out for the test


class Split:
    """Rows of several kinds, which are written to files and then divided.

    Call `add` for each kind, then `divide`, then `write` for each kind.
    """

    def __init__(self, folder: Path):
        """`folder` is for temporary files."""
        self.folder = folder
        self.hashes: dict[str, array[int]] = {}  # of the rows of each kind, in order
        self.test: set[int] = set()  # hashes of held-out keys
        self.validation: set[int] = set()
        self.database = sqlite3.connect(folder / "keys.sqlite", isolation_level=None)
        for statement in (
            "pragma journal_mode = off",
            "pragma synchronous = off",
            "pragma cache_size = -32768",
            "create table keys (key text, hash integer, kind integer)",
            "begin",
        ):
            self.database.execute(statement)

    def add(self, kind: str, rows: Iterable[Row]) -> None:
        """Writes the rows of a kind to a temporary file."""
        hashes, bit = array("q"), 1 << len(self.hashes)

        def keys(batch: list[Row]) -> Iterator[tuple[str, int, int]]:
            for row in batch:
                key = key_of(row)
                hashes.append(hash_of(key))
                yield key, hashes[-1], bit

        rows = iter(rows)
        with open(self._path(kind), "w", encoding="utf-8", errors="backslashreplace") as file:
            while batch := list(islice(rows, 100)):
                self.database.executemany("insert into keys values (?, ?, ?)", keys(batch))
                file.writelines(map(to_line, batch))
        self.hashes[kind] = hashes

    def divide(self, test_share: float, test_rows: int, seed: int, validation_rows: int = 0) -> None:
        """Chooses the held-out prompts: `test_share` of each kind, at most `test_rows`; at least 1 of FEW or more.

        For validation it chooses as many others, at most `validation_rows`; of texts none.
        """
        # each kind has a bit, which is set if the kind has the key; keys are in alphabetical order
        query = "select hash, sum(distinct kind) from keys group by key order by key"
        hashes, kinds = array("q"), array("B")
        for value, bits in self.database.execute(query):
            hashes.append(value)
            kinds.append(bits)
        order = array("q", range(len(hashes)))
        random.Random(f"split {seed}").shuffle(order)
        shares = []
        for number in range(len(self.hashes)):
            bit = 1 << number
            count = sum(1 for bits in kinds if bits & bit)
            shares.append(max(round(test_share * count), 1 if count >= FEW and test_share else 0))
            held_out = (hashes[i] for i in order if kinds[i] & bit)
            self.test.update(islice(held_out, min(shares[-1], test_rows)))
        for number, kind in enumerate(self.hashes):
            others = (hashes[i] for i in order if kinds[i] & 1 << number and hashes[i] not in self.test)
            self.validation.update(islice(others, 0 if kind == "text" else min(shares[number], validation_rows)))

    def write(self, kind: str, files: Sequence[Path]) -> list[int]:
        """Writes the rows of a kind to a file for training, one for the test and, if there is a third one, validation.

        Returns the number of rows in each.
        """
        counts = [0] * len(files)
        with ExitStack() as stack:
            lines = stack.enter_context(open(self._path(kind), "rb"))
            parts = [stack.enter_context(open(file, "wb")) for file in files]
            for line, value in zip(lines, self.hashes[kind], strict=True):
                part = 1 if value in self.test else 2 if value in self.validation else 0
                parts[part].write(line)
                counts[part] += 1
        self._path(kind).unlink()
        return counts

    def close(self) -> None:
        """Removes the temporary files."""
        self.database.close()
        (self.folder / "keys.sqlite").unlink()

    def distinct(self, rows: Iterable[tuple[str, Row]]) -> Iterator[Row]:
        """The rows whose key, which comes first, is new."""
        self.database.execute("create table seen (hash integer primary key)")
        for key, row in rows:
            if self.database.execute("insert or ignore into seen values (?)", [hash_of(key)]).rowcount:
                yield row
        self.database.execute("drop table seen")

    def _path(self, kind: str) -> Path:
        return self.folder / f"rows-{kind}.jsonl"


def key_of(row: Row) -> str:
    """A key that is equal for rows with the same prompt or text.

    A plain prompt is the same as a chat in which the user says it: the two may come from sources of different kinds.
    """
    columns = [(column, without_weights(row[column])) for column in ("prompt", "text", "messages") if column in row]
    if columns and columns[0][0] == "prompt" and isinstance(columns[0][1], str):
        columns = [("prompt", [{"role": "user", "content": columns[0][1]}])]
    return json.dumps(columns[:1])


def hash_of(key: str) -> int:
    """A 64-bit hash, as a signed integer."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little", signed=True)
