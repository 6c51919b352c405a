"""The interface of a task, the request it draws, and helpers that several tasks share.

A task draws requests, writes answers with any set of flaws, and checks which criteria an answer meets. A flaw has the
name of the criterion that it violates, so tests can compare an answer's assessment with its flaws.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from data.world.grammar import Parse
from data.world.sentences import COURTESIES, GRAMMAR

Slots = dict[str, str]
Value = TypeVar("Value", str, int)


@dataclass(frozen=True)
class Request:
    """A request: its kind, a key of `REQUESTS`, and the fillers of its slots."""

    kind: str
    slots: Slots

    @property
    def task_name(self) -> str:
        """The first word of the kind, which is a key of `TASKS`: "fact" of "fact home"."""
        return self.kind.split()[0]

    @property
    def subject(self) -> str:
        """The last word of the kind: "home" of "fact home"."""
        return self.kind.split()[-1]


class Task:
    """One type of request, with the criteria of a good answer."""

    share: float  # share of this task in all requests
    weights: dict[str, int]  # criterion -> its weight in the gold score
    miss_rates: dict[str, float]  # criterion -> probability that a demonstration misses it

    def draw(self, rng: random.Random) -> Request:
        """A random request."""
        raise NotImplementedError

    def combination(self, request: Request) -> tuple[str, ...]:
        """The slot values by which requests are held out: requests with equal values are all train or all test."""
        raise NotImplementedError

    def combinations(self) -> Iterable[tuple[str, ...]]:
        """All possible combinations."""
        raise NotImplementedError

    def body(self, request: Request, flaws: set[str], rng: random.Random) -> list[str]:
        """The sentences of an answer, without courtesies."""
        raise NotImplementedError

    def criteria(self, request: Request, parses: list[tuple[Parse, ...]]) -> dict[str, bool]:
        """Whether the answer meets each criterion. `parses` has all parses of each sentence."""
        raise NotImplementedError

    def answer(self, request: Request, flaws: set[str], rng: random.Random) -> str:
        """An answer that misses the criteria in `flaws` and meets the others.

        `flaws` may also name faults: "unrepeated" repeats a random sentence, and "grammatical" makes one ungrammatical.
        Either can violate further criteria.
        """
        sentences = self.body(request, flaws, rng)
        if "friendly" in self.weights:
            sentences = _add_courtesies(sentences, flaws, rng)
        if "unrepeated" in flaws:
            sentences.append(rng.choice(sentences))
        if "grammatical" in flaws:
            index = rng.randrange(len(sentences))
            sentences[index] = _make_ungrammatical(sentences[index], rng)
        return " ".join(sentences)


def select_parses(parses: Iterable[tuple[Parse, ...]], *kinds: str) -> list[Parse]:
    """The first matching parse of each sentence; a sentence without one is left out.

    A parse matches if its kind, or the first words of its kind, are one of `kinds`.
    """
    selected = []
    for sentence in parses:
        selected += [p for p in sentence if any(p.kind == kind or p.kind.startswith(kind + " ") for kind in kinds)][:1]
    return selected


def draw_other(value: Value | None, values: Iterable[Value], rng: random.Random) -> Value:
    """A random element of `values` other than `value`."""
    return rng.choice([v for v in values if v != value])


def is_friendly(parses: list[tuple[Parse, ...]]) -> bool:
    """Whether an answer has one or two courtesies and no rude remark."""
    return 1 <= len(select_parses(parses, "hello", "goodbye")) <= 2 and not select_parses(parses, "rude")


def _add_courtesies(body: list[str], flaws: set[str], rng: random.Random) -> list[str]:
    """The answer with one or two courtesies; if "friendly" is a flaw, with none, four or a rude remark."""
    hello, hello2 = rng.sample(COURTESIES["hello"], 2)
    goodbye, goodbye2 = rng.sample(COURTESIES["goodbye"], 2)
    if "friendly" not in flaws:
        return rng.choice(([hello, *body], [*body, goodbye], [hello, *body, goodbye]))
    rude = [rng.choice(COURTESIES["rude"]), *body]
    return rng.choice((body, body, rude, [hello, hello2, *body, goodbye, goodbye2]))


def _make_ungrammatical(sentence: str, rng: random.Random) -> str:
    """The sentence with two adjacent words swapped or with one word doubled, such that it has no parse."""
    words = sentence[:-1].split()
    while True:
        i = rng.randrange(len(words))
        corrupted = (
            [*words[: i + 1], *words[i:]] if rng.random() < 0.5 else words[:i] + words[i : i + 2][::-1] + words[i + 2 :]
        )
        candidate = " ".join(corrupted) + sentence[-1]
        if not GRAMMAR.parse(candidate):
            return candidate
