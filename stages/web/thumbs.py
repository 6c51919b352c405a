"""Thumbs up and down of the chat page, kept as comparisons of the answers to one prompt.

A line is one of `make rank` (data/rankings.py): a liked answer has a better rank than one without a mark, and that one a
better rank than a disliked one. A mark that is changed, or a further answer, adds a line with the same id.
"""

import secrets
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from data.rankings import FILE
from rlhf.rows import Row, Text
from stages.common.conversation import CHAT
from stages.common.interruption import lock
from stages.web.store import Store

LIKED, UNMARKED, DISLIKED = 1, 0, -1


@dataclass
class Answer:
    """An answer as it was sampled. `stopped`: a person ended it, or it is still sampled."""

    model: str
    seed: int
    temperature: float
    prompt: Text
    text: str = ""
    finished: bool = False
    stopped: bool = True


@dataclass
class Comparison:
    """The answers to one prompt, and the marks of their texts. Equal texts have one mark."""

    prompt: Text
    answers: list[Answer] = field(default_factory=list)
    marks: dict[str, int] = field(default_factory=dict)
    rater: str = ""
    saved: bool = False  # whether a line tells the marks
    id: str = field(default_factory=lambda: f"{CHAT}-{secrets.token_hex(8)}")
    since: float = 0.0  # when the last answer was there

    def mark_of(self, answer: Answer) -> int:
        """LIKED, UNMARKED or DISLIKED."""
        return self.marks.get(answer.text, UNMARKED)

    def compared(self) -> list[Answer]:
        """The answers that a line compares: not empty ones, nor those that a person stopped and did not mark."""
        return [a for a in self.answers if a.text.strip() and (self.mark_of(a) or not a.stopped)]

    def row(self) -> Row | None:
        """The line; None as long as there is nothing to tell: no mark, or no other answer."""
        answers = self.compared()
        told = any(self.marks.values()) and len({answer.text for answer in answers}) > 1
        if not told and not self.saved:
            return None
        marks = [self.mark_of(answer) for answer in answers]
        order = sorted(set(marks), reverse=True)
        return {
            **{"id": self.id, "prompt": self.prompt, "completions": [self._completion(a) for a in answers]},
            **{"ended": [a.finished for a in answers], "models": [a.model for a in answers]},
            **{"shown": list(range(len(answers))), "ranks": [order.index(mark) for mark in marks]},
            **{"all_bad": bool(marks) and set(marks) == {DISLIKED}, "flag": False, "note": "", "rater": self.rater},
            "time": datetime.now().astimezone().isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.since, 1),
            "submission": secrets.token_hex(16),
        }

    def _completion(self, answer: Answer) -> Text:
        """The answer in the form of the prompt: a text, or messages."""
        if isinstance(self.prompt, str):
            return answer.text
        return [{"role": "assistant", "content": answer.text.strip()}]


class Thumbs:
    """The comparisons in a folder, which no other process may use at the same time."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self._folder_lock = lock(folder)
        self._lock = threading.Lock()  # marks come from the event loop, further answers from the thread that samples
        if self.path.exists():
            self.store  # noqa: B018  damage is found now

    @cached_property
    def store(self) -> Store:
        """The file. It is made for the first line, because a new file would make `make ppo` run stages again."""
        return Store(self.path.parent)

    def decisions(self) -> list[Row]:
        """The last line about each comparison."""
        return list(self.store.decisions.values()) if self.path.exists() else []

    def add(self, comparison: Comparison, answer: Answer) -> None:
        """Adds an answer. What was marked before is now compared with it too, on disk when this returns."""
        with self._lock:
            comparison.answers.append(answer)
            comparison.since = time.monotonic()
            self._save(comparison)

    def mark(self, comparison: Comparison, answer: Answer, mark: int, rater: str) -> None:
        """Marks an answer; on disk when this returns. Raises OSError, and changes nothing, if the disk is full."""
        with self._lock:
            before = comparison.marks, comparison.rater
            comparison.marks = {**comparison.marks, answer.text: mark}
            comparison.rater = comparison.rater or rater
            try:
                if comparison.marks != before[0]:
                    self._save(comparison)
            except OSError:
                comparison.marks, comparison.rater = before
                raise

    def _save(self, comparison: Comparison) -> None:
        if row := comparison.row():
            self.store.add(row)
            comparison.saved = True
