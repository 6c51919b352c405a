"""Sums of several numbers with their answers, direct or after steps, whose truth is exact.

    Q: 3 + 4 + 2
    A: 3 + 4 = 7. 7 + 2 = 9. The answer is 9.
    A: The answer is 9.

Numbers are added from left to right. `python -m data.sums` prints examples.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple
from zlib import crc32

HIGHEST = 12  # the numbers are 1 to HIGHEST
LENGTHS = (2, 3, 4, 5, 6)  # how many numbers a sum has
LARGEST = HIGHEST * max(LENGTHS)  # the largest result
HELD_OUT = 5  # one of so many sums is only asked in tests
MOST_ASKED = 3  # questions in a document
DIRECT, WITH_STEPS = "direct", "with steps"  # the forms of an answer
SEPARATOR = "\n"  # between the questions of a document
_STEP = re.compile(r"(\d+) \+ (\d+) = (\d+)\.")
_ANSWER = re.compile(r"The answer is (\d+)\.$")

Numbers = tuple[int, ...]


class Step(NamedTuple):
    """One addition, as an answer states it."""

    left: int
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} + {self.right} = {self.result}."


@dataclass(frozen=True)
class Answer:
    """What a completion states: its steps, and its final answer; None without one at the end."""

    steps: tuple[Step, ...]
    result: int | None


@dataclass(frozen=True)
class Corrupted:
    """Steps up to one whose result is wrong, and the sum that follows from it if all later steps are right."""

    text: str
    follows: int


def is_held_out(numbers: Numbers) -> bool:
    """Whether a sum is asked in tests only. Its first steps may still be steps of other sums."""
    return crc32(repr(numbers).encode()) % HELD_OUT == 0


def draw(rng: random.Random, length: int, held_out: bool = False) -> Numbers:
    """The numbers of a sum, held out or not."""
    while True:
        numbers = tuple(rng.randint(1, HIGHEST) for _ in range(length))
        if is_held_out(numbers) == held_out:
            return numbers


def question(numbers: Numbers) -> str:
    """The prompt that asks for a sum."""
    return f"Q: {' + '.join(map(str, numbers))}\nA:"


def steps_of(numbers: Numbers) -> tuple[Step, ...]:
    """The right steps of a sum, one fewer than numbers."""
    sums = list(accumulate(numbers))
    return tuple(Step(*step) for step in zip(sums, numbers[1:], sums[1:], strict=False))


def completion(numbers: Numbers, form: str) -> str:
    """The right answer in a form: DIRECT or WITH_STEPS."""
    steps = steps_of(numbers) if form == WITH_STEPS else ()
    return "".join(f" {part}" for part in (*steps, f"The answer is {sum(numbers)}."))


def read(text: str) -> Answer:
    """The steps and the final answer of a completion."""
    steps = tuple(Step(*map(int, found)) for found in _STEP.findall(text))
    stated = _ANSWER.search(text.rstrip())
    return Answer(steps, int(stated[1]) if stated else None)


def check_steps(numbers: Numbers, steps: Sequence[Step]) -> list[bool]:
    """Whether each step is right: it adds the next number to the result that was stated before, and adds correctly.

    So a step after a wrong one is right if it goes on from the wrong result.
    """
    stated = [numbers[0], *(step.result for step in steps)]
    added = [*numbers[1:], *[None] * len(steps)]  # a step too many adds no number of the sum
    return [step == (left, right, left + (right or 0)) for step, left, right in zip(steps, stated, added, strict=False)]


def all_right(numbers: Numbers, steps: Sequence[Step]) -> bool:
    """Whether the steps are those of the sum: all right, none missing, none too many."""
    return len(steps) == len(numbers) - 1 and all(check_steps(numbers, steps))


def corrupt(numbers: Numbers, rng: random.Random) -> Corrupted:
    """The steps up to a random one, whose result is changed by 1 to 3; every sum stays between 1 and LARGEST."""
    steps = list(steps_of(numbers)[: rng.randint(1, len(numbers) - 1)])
    wrong = steps[-1]
    changes = [change for change in (-3, -2, -1, 1, 2, 3) if wrong.result + change > 0]
    change = rng.choice([change for change in changes if sum(numbers) + change <= LARGEST])
    steps[-1] = wrong._replace(result=wrong.result + change)
    return Corrupted("".join(f" {step}" for step in steps), sum(numbers) + change)


# --- rows -------------------------------------------------------------------------------------------------------------


def documents(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Yields pretraining text: {"text"}, up to MOST_ASKED questions whose answers have one form."""
    rng = random.Random(f"documents {seed}")
    for _ in range(count):
        form, asked = rng.choice((DIRECT, WITH_STEPS)), rng.randint(1, MOST_ASKED)
        sums = [draw(rng, rng.choice(LENGTHS)) for _ in range(asked)]
        yield {"text": SEPARATOR.join(question(numbers) + completion(numbers, form) for numbers in sums)}


def demonstrations(count: int, seed: int, forms: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yields {"prompt", "completion"}, the forms of the answers in turn. The questions do not depend on the forms."""
    rng = random.Random(f"demonstrations {seed}")
    for i in range(count):
        numbers = draw(rng, rng.choice(LENGTHS))
        yield {"prompt": question(numbers), "completion": completion(numbers, forms[i % len(forms)])}


def prompts(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Yields {"prompt", "answer"}; the answer is the sum, which `data.rewards.right_number` compares."""
    rng = random.Random(f"prompts {seed}")
    for _ in range(count):
        numbers = draw(rng, rng.choice(LENGTHS))
        yield {"prompt": question(numbers), "answer": str(sum(numbers))}


def held_out(count: int, seed: int) -> list[Numbers]:
    """Up to `count` different held-out sums of each length; there are fewer of two numbers."""
    rng = random.Random(f"held out {seed}")
    found: dict[Numbers, None] = {}
    for length in LENGTHS:
        drawn = dict.fromkeys(draw(rng, length, held_out=True) for _ in range(20 * count))
        found |= dict.fromkeys(list(drawn)[:count])
    return list(found)


if __name__ == "__main__":
    for row in (*documents(4, seed=0), *demonstrations(2, 0, (DIRECT, WITH_STEPS)), *prompts(1, 0)):
        print(*(f"{name}: {text}" for name, text in row.items()), "", sep="\n")
