"""rankings.jsonl while people rank: its one writer, and who gets which item."""

import json
import os
import random
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

from data.rankings import FILE, read_decisions
from rlhf.rows import Row, read_jsonl, to_line
from stages.web.items import Item, Pool, cut_off_incomplete_line

LEASE = 600  # seconds for which an item is kept for a person who does not decide
LONGEST_NAME = 40


class Store:
    """The decisions in a folder. A decision is on disk when `add` returns."""

    def __init__(self, folder: Path):
        """Reads what is there, without a line that was cut off. Raises InputError for a line that can't be one."""
        self.path = folder / FILE
        cut_off_incomplete_line(self.path)
        self.decisions: dict[tuple[str, str], Row] = {}  # (id, rater): the last decision
        self.submissions: set[str] = set()
        if self.path.exists():
            self.decisions = {(row["id"], row["rater"]): row for row in read_decisions(self.path)}
            self.submissions = {str(row.get("submission", "")) for _, row in read_jsonl(self.path)}
        self.before = len(self.submissions)
        # without a buffer, in which a full disk would leave a part of a line
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115  open as long as the server

    def add(self, row: Row) -> bool:
        """Writes a decision and waits until it is on disk. False if this submission is there already.

        Raises OSError, and leaves the file as it was, if the disk is full.
        """
        if row["submission"] in self.submissions:
            return False
        end, rest = self.file.seek(0, os.SEEK_END), to_line(row).encode("utf-8", "backslashreplace")
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
            os.fsync(self.file.fileno())
        except OSError:
            self.file.truncate(end)
            raise
        self.submissions.add(row["submission"])
        key = (row["id"], row["rater"])
        self.decisions.pop(key, None)
        self.decisions[key] = row
        return True


class Desk:
    """Gives each person the next item, and counts what is done.

    Every person gets the shared items. Any other item is kept for the first person who gets it, and goes to another one
    if that person skips it, or decides nothing for LEASE seconds.
    """

    def __init__(self, pool: Pool, store: Store, shared: float, clock: Callable[[], float] = time.monotonic):
        self.pool, self.store, self.shared, self.clock = pool, store, shared, clock
        self.leases: dict[str, tuple[str, float]] = {}  # id of an item: person, and when the lease ends
        self.people: dict[str, list[str]] = defaultdict(list)  # person: ids of the items decided, in order
        self.takers: dict[str, set[str]] = defaultdict(set)  # id of an item: the people who did not skip it
        for row in store.decisions.values():
            self._note(row)

    def decide(self, row: Row) -> bool:
        """Adds a decision to the file. False if it was there already, which a client that tries again can't know."""
        added = self.store.add(row)
        if added:
            self._note(row)
        return added

    def _note(self, row: Row) -> None:
        if not self.pool.has(row):
            return  # of an earlier pool
        person, item = row["rater"], row["id"]
        if item not in self.people[person]:
            self.people[person].append(item)
        if row["ranks"] is None:
            self.takers[item].discard(person)
        else:
            self.takers[item].add(person)
        if item in self.leases and self.leases[item][0] == person:
            del self.leases[item]

    def next(self, person: str) -> Item | None:
        """The next item for a person. None if there is none, at present or at all."""
        now, own = self.clock(), set(self.people[person])
        for item in self.pool.items:
            if item.id in own:
                continue
            if not self.is_shared(item.number):
                holder, until = self.leases.get(item.id, (person, 0.0))
                if self.takers[item.id] or (holder != person and until > now):
                    continue
                self.leases[item.id] = (person, now + LEASE)
            self.pool.ask(item.number)
            return item
        if self.pool.items:
            self.pool.ask(self.pool.items[-1].number + 1)
        return None

    def is_shared(self, number: int) -> bool:
        """Whether everybody gets the item of this number. The shared ones are spread evenly."""
        return int((number + 1) * self.shared + 1e-9) > int(number * self.shared + 1e-9)

    def neighbour(self, person: str, item: str | None, step: int) -> Item | None:
        """The item that a person decided before (-1) or after (1) `item`, or before the one that is open now."""
        decided = self.people[person]
        position = decided.index(item) if item in decided else len(decided)
        position += step
        return self.pool.by_id[decided[position]] if 0 <= position < len(decided) else None

    def decision(self, person: str, item: Item) -> Row | None:
        """A person's last decision about an item."""
        row = self.store.decisions.get((item.id, person))
        return row if row and self.pool.has(row) else None

    def progress(self, person: str) -> Row:
        """Counts for a person: `done`, `skipped`, `left`; the median `seconds`; the number of `people`."""
        rows = [self.store.decisions[item, person] for item in self.people[person]]
        times = [row["seconds"] for row in rows if row["ranks"] is not None]
        others = sum(
            bool(takers - {person}) and person not in takers and not self.is_shared(self.pool.by_id[item].number)
            for item, takers in self.takers.items()
        )
        left = self.pool.total - self.pool.nothing_to_rank() - len(rows) - others
        return {
            "done": len(times),
            "skipped": len(rows) - len(times),
            "left": max(0, left),
            "seconds": median(times) if times else None,
            "people": sum(map(bool, self.people.values())),
        }


def shown_order(item: Item, person: str) -> list[int]:
    """Indices of the completions in the order in which a person sees them: random, but always the same."""
    order = list(item.distinct)
    random.Random(json.dumps([person, item.id])).shuffle(order)
    return order


def name_of(text: object) -> str | None:
    """A person's name in one form; None if it is too long, empty, or has characters that are not printed."""
    if not isinstance(text, str) or len(text) > 4 * LONGEST_NAME:
        return None
    name = " ".join(unicodedata.normalize("NFC", text).split())
    return name if 0 < len(name) <= LONGEST_NAME and name.isprintable() else None
