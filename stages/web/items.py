"""The items that people rank, each a prompt with its completions, and the file that keeps them.

They are made in the background, in the order of their numbers, a few dozen ahead of the people. A restart goes on with
the items of the file, and makes none of them again.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rlhf import InputError
from rlhf.rows import Row, Text, read_jsonl, to_line
from stages.common.interruption import lock

RENDERING = ("tools", "rendered")  # columns that change the tokens of a prompt
AHEAD = 50  # items beyond the last one that somebody was given


@dataclass(frozen=True)
class Item:
    """A prompt and its completions; `models` wrote them, and `ended` is False for a truncated one."""

    id: str
    number: int
    prompt: Text
    completions: list[Text]
    ended: list[bool]
    models: list[str]
    rendering: Row = field(default_factory=dict)  # the columns of RENDERING that the prompt's row has

    @cached_property
    def distinct(self) -> list[int]:
        """The first index of each completion that is not the same as an earlier one: what a person sees."""
        texts = [json.dumps(completion) for completion in self.completions]
        return [i for i, text in enumerate(texts) if texts.index(text) == i]

    @cached_property
    def same_as(self) -> list[int]:
        """For each completion, the position in `distinct` of the one that it equals."""
        texts = [json.dumps(completion) for completion in self.completions]
        return [self.distinct.index(texts.index(text)) for text in texts]


# returns how many items there are, and a function that makes the item of a number, without its id and number
Source = Callable[[], tuple[int, Callable[[int], Row]]]


class Pool:
    """The items of one source, in items.jsonl of a folder, which no other process may use at the same time."""

    def __init__(self, folder: Path, key: str, total: int):
        """`key` stands for everything that decides what the items are; items of other keys stay in the file, unused."""
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = lock(folder)
        self.path, self.key, self.total = folder / "items.jsonl", key, total
        cut_off_incomplete_line(self.path)
        self.items: list[Item] = []  # those with something to rank
        self.by_id: dict[str, Item] = {}
        self.made: set[int] = set()  # the numbers of all
        self.error: BaseException | None = None
        self.finished = False
        self._wanted, self._stopping, self._changed = AHEAD, False, threading.Condition()
        for where, row in read_jsonl(self.path) if self.path.exists() else ():
            item = item_of(row, where)
            if item.id.rpartition("-")[0] == key and item.number < total:
                self._keep(item)

    def ask(self, number: int) -> None:
        """Notes that somebody has reached this number, so that more items are made."""
        with self._changed:
            self._wanted = max(self._wanted, number + AHEAD)
            self._changed.notify()

    def start(self, source: Source, failed: Callable[[], None]) -> None:
        """Makes the missing items in a thread. `failed` is called there after an error, which is in `error`."""
        if len(self.made) == self.total:
            self.finished = True
            return
        self._thread = threading.Thread(target=self._fill, args=(source, failed), name="sampler", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 20) -> None:
        """Ends the thread after the item that it is making, for which it waits no longer than `seconds`."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if thread := getattr(self, "_thread", None):
            thread.join(seconds)

    def _fill(self, source: Source, failed: Callable[[], None]) -> None:
        try:
            self.total, make = source()
            with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
                for number in range(self.total):
                    with self._changed:
                        while not self._stopping and number >= self._wanted:
                            self._changed.wait()
                    if self._stopping:
                        return
                    if number not in self.made:
                        item = Item(f"{self.key}-{number}", number, **make(number))
                        file.write(to_line(asdict(item)))
                        file.flush()
                        self._keep(item)
            self.finished = True
        except BaseException as error:  # raised again in the main thread
            self.error = error
            failed()

    def _keep(self, item: Item) -> None:
        self.made.add(item.number)
        if len(item.distinct) > 1 and item.id not in self.by_id:
            self.by_id[item.id] = item
            self.items.append(item)

    def has(self, decision: Row) -> bool:
        """Whether a decision is about one of the items. Its completions may be others than those of the same id."""
        item = self.by_id.get(decision["id"])
        return item is not None and item.completions == decision["completions"]

    def nothing_to_rank(self) -> int:
        """The number of items whose completions are all the same."""
        return len(self.made) - len(self.items)


def item_of(row: Any, where: str) -> Item:
    """The item of a line of items.jsonl. Raises InputError if it is none."""
    try:
        item = Item(**row)
        texts = [item.id, item.prompt, *item.completions]
        counts = {len(item.completions), len(item.ended), len(item.models)}
        right = isinstance(item.number, int) and len(counts) == 1 and isinstance(item.id, str)
    except TypeError:
        right = False
    if not right or not all(isinstance(text, str | list) for text in texts):
        raise InputError(f"{where}: not an item that `make rank` wrote; remove the line")
    return item


def cut_off_incomplete_line(path: Path) -> None:
    """Removes a last line without a newline, which was cut off while it was written."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 2**16)
            file.seek(start)
            block = file.read(end - start)
            if (newline := block.rfind(b"\n")) >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        file.truncate(0)


# --- where items come from --------------------------------------------------------------------------------------------

ROUNDS = 4  # of sampling, until there are K different completions


def from_file(path: Path, count: int) -> Source:
    """The first `count` comparisons of a file, whose own ranks are not used."""

    def source() -> tuple[int, Callable[[int], Row]]:
        from rlhf.rows import read_rows

        rows = read_rows(path, "comparisons")

        def make(number: int) -> Row:
            row = rows[number]
            k, models = len(row["completions"]), row.get("models")
            named = isinstance(models, list) and len(models) == k and all(isinstance(name, str) for name in models)
            columns = {name: row[name] for name in ("prompt", "completions")} | rendering_of(row)
            return {**columns, "ended": row.get("ended", [True] * k), "models": models if named else [path.name] * k}

        return min(count, len(rows)), make

    return source


def from_models(options: Any, stage: Any, path: Path) -> Source:
    """Sampled items: K completions of one model, or one completion of each of several.

    The seed of an item is its number and that of the options, so that the time at which it is sampled changes nothing.
    """

    def source() -> tuple[int, Callable[[int], Row]]:
        from rlhf.rows import read_rows
        from stages.common.answers import answerable, load_answerers, say_answering_needs

        answerers = load_answerers(options.models, stage)
        rows = answerable(read_rows(path, "prompts")[: options.count], answerers, options.response_length)
        if not rows:
            raise InputError(f"{path}: no prompt is left to answer; shorten them, or lower response_length")
        say_answering_needs(answerers, [], rows, options.response_length, options.completions)

        def answer(model: Any, number: int, count: int, draw: int) -> list[Any]:
            seed = (options.seed * 10**6 + number) * ROUNDS + draw
            return list(model.answer([rows[number]] * count, options.response_length, options.temperature, seed))

        def make(number: int) -> Row:
            if len(answerers) > 1:
                answers = [answer(model, number, 1, 0)[0] for model in answerers]
                names = [model.name for model in answerers]
            else:
                k = options.completions
                answers = different((answer(answerers[0], number, k, draw) for draw in range(ROUNDS)), k)
                names = [answerers[0].name] * len(answers)
            columns = {"completions": [c.text for c in answers], "ended": [c.finished for c in answers]}
            return {"prompt": rows[number]["prompt"], **columns, "models": names, **rendering_of(rows[number])}

        return len(rows), make

    return source


def different(rounds: Iterable[list[Any]], count: int) -> list[Any]:
    """The first `count` completions with different texts; no further round is sampled when they are there.

    Empty ones are left out, because a reward model can't learn from them.
    """
    found: dict[str, Any] = {}
    for completions in rounds:
        for completion in completions:
            if completion.text.strip():
                found.setdefault(completion.text, completion)
        if len(found) >= count:
            break
    return list(found.values())[:count]


def rendering_of(row: Row) -> Row:
    """The field `rendering` of the item of a row."""
    return {"rendering": {name: row[name] for name in RENDERING if row.get(name)}}
