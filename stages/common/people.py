"""Comparisons that people ranked: the files of `make rank` as rows to train on and rows to test on."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from data.rankings import CHAT, FILE, FOLDER, by_whom, plural, read_decisions, usable
from rlhf import InputError
from rlhf.rows import Row, Tally, read_rows, valid_rows
from stages.common.options import ComparisonsOptions
from stages.common.request import command
from stages.common.run import INPUT

OWN = f"{INPUT}{FOLDER}/{FILE}"
OF_CHAT = f"{INPUT}{FOLDER}/{CHAT}/{FILE}"
OF_PAGE = ("id", "models", "shown", "all_bad", "flag", "note")  # columns that training does not need


@dataclass
class People:
    """What people decided, and the rows that follow from it."""

    decisions: list[Row]  # the last one of each person about each item
    train: list[Row]
    test: list[Row]  # with other prompts than `train`
    tally: Tally  # of both

    def __str__(self) -> str:
        """`60 rankings by 2 people (Ada 40, Bob 20): 55 used, 3 skipped, 1 flagged, 1 tied`."""
        rest = "".join(f", {count:,} {kind}" for kind, count in self.counts().items() if count)
        return f"{by_whom(self.decisions)}: {self.tally.used:,} used{rest}"

    def counts(self) -> dict[str, int]:
        """The number of decisions that are not used, by kind."""
        ranked = [row for row in self.decisions if row["ranks"] is not None]
        flagged = [row for row in ranked if row.get("flag")]
        tied = sum(len(set(row["ranks"])) == 1 for row in ranked if not row.get("flag"))
        skipped = len(self.decisions) - len(ranked)
        return {"skipped": skipped, "flagged": len(flagged), "tied": tied} | dict(self.tally.dropped)


def read_people(options: ComparisonsOptions, find: Callable[[str], Path]) -> People:
    """The rankings of the run and of the option `rankings`; `find` gives the path of an input.

    Raises InputError for a file that is not one of `make rank`, and if there is too little to train and to test on.
    """
    paths = [*filter(Path.is_file, [find(OWN), find(OF_CHAT)]), *(_further(name, find) for name in options.rankings)]
    if repeated := [path for path, count in Counter(map(Path.resolve, paths)).items() if count > 1]:
        raise InputError(f"{repeated[0]} is named twice among the rankings (those of the run are read anyway)")
    rank = command("rank", options)
    decisions, tally = [], Tally()
    parts: tuple[list[Row], list[Row]] = [], []
    for path in paths:
        of_file = read_decisions(path)
        decisions += of_file
        places = ((f"{path}: item {row['id']} of {row['rater']}", row) for row in usable(of_file))
        for row in valid_rows(places, "comparisons", tally):
            kept = {column: value for column, value in row.items() if column not in OF_PAGE}
            parts[is_held_out(row["prompt"], options.held_out)].append(kept)
    if not decisions:
        raise InputError(f"no rankings in {find(OWN).parent}: run `{rank}` first")
    people = People(decisions, *parts, tally)
    if not people.train or options.held_out and not people.test:
        prompts = len({json.dumps(row["prompt"]) for row in [*people.train, *people.test]})
        raise InputError(
            f"{', '.join(map(str, paths))}: usable rankings of {plural(prompts, 'prompt')} are too few to "
            f"train and to hold out {options.held_out:g} of them: rank more with `{rank}`"
        )
    return people


def _further(name: str, find: Callable[[str], Path]) -> Path:
    """The file of rankings that an entry of the option names: a file, or a folder with rankings.jsonl."""
    path = find(str(Path(name, FILE)) if find(name).is_dir() else name)
    if not path.is_file():
        raise InputError(f"rankings: there is no file {path}; name a file that `make rank` wrote, or its folder")
    return path


def is_held_out(prompt: object, share: float) -> bool:
    """Whether a prompt is in the test part: its SHA-256 decides, so that it stays there when others are added."""
    digest = sha256(json.dumps(prompt, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def mix(new: Sequence[Row], test: Iterable[Row], path: Path, weight: float, seed: int) -> list[Row]:
    """`weight` older comparisons for each new one, drawn from a file without replacement, behind the new ones.

    None of them has a prompt of `test`. More new rows draw the same older ones and further ones. Raises InputError if
    the file has too few.
    """
    held_out = {json.dumps(row["prompt"], sort_keys=True) for row in test}
    rows = read_rows(path, "comparisons")
    count = round(weight * len(new))
    order = random.Random(f"old {seed}").sample(range(len(rows)), len(rows))
    old = [row for row in map(rows.__getitem__, order) if json.dumps(row["prompt"], sort_keys=True) not in held_out]
    if count > len(old):
        raise InputError(
            f"old_weight {weight:g} draws {count:,} older comparisons for {len(new):,} rankings, and {path} has "
            f"{len(old):,} whose prompts are not held out: lower old_weight"
        )
    return [*new, *old[:count]]
