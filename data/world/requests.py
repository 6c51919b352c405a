"""Requests as text: drawing them, wording them, understanding them, and keeping some of them for the test."""

import random
from functools import cache

from data.world.grammar import PRONOUN_SLOTS
from data.world.sentences import REQUESTS
from data.world.tasks import TASKS, Request

USER, BOT = "User: ", "\nBot:"
HELD_OUT = 0.12  # share of a task's combinations that is never asked in training


def draw_request(rng: random.Random, held_out: bool = False) -> Request:
    """A request at random, tasks by their share; those for the test and the others never share a combination."""
    (task,) = rng.choices(list(TASKS.values()), [task.share for task in TASKS.values()])
    while True:
        request = task.draw(rng)
        if is_held_out(request) == held_out:
            return request


def is_held_out(request: Request) -> bool:
    """Whether the request's combination (a name with an animal, a pair of operands) is kept for the test."""
    return request.task.combination(request) in _held_out_combinations(request.kind.split()[0])


@cache
def _held_out_combinations(task: str) -> frozenset[tuple[str, ...]]:
    # a shuffle cuts evenly also where combinations are few, which hashing does not
    combinations = sorted(TASKS[task].combinations())
    random.Random(f"held out {task}").shuffle(combinations)
    return frozenset(combinations[: round(HELD_OUT * len(combinations))])


def ask(request: Request, rng: random.Random) -> str:
    """The request in words."""
    return REQUESTS.write(request.kind, rng, **request.slots)


def prompt_of(question: str) -> str:
    """The prompt as the models see it; the answer that follows begins with a space."""
    return f"{USER}{question}{BOT}"


def understand(prompt: str) -> Request | None:
    """What the prompt asks, or None if it is not a request of this world."""
    if not (prompt.startswith(USER) and prompt.endswith(BOT)):
        return None
    readings = REQUESTS.read(prompt[len(USER) : -len(BOT)])
    if not readings:
        return None
    slots = {slot: value for slot, value in readings[0].slots.items() if slot not in PRONOUN_SLOTS}
    return Request(readings[0].kind, slots)
