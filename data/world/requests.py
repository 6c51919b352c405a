"""Requests: sampling them, holding some out for the test, and converting them to prompts and back."""

import random
from collections.abc import Sequence
from functools import cache

from data.world.grammar import PRONOUN_SLOTS
from data.world.sentences import REQUESTS
from data.world.tasks import TASKS
from data.world.tasks.base import Request

USER, BOT = "User: ", "\nBot:"
HELD_OUT_SHARE = 0.12  # share of the combinations of each task that is held out


def draw_request(rng: random.Random, held_out: bool = False, task_names: Sequence[str] = ()) -> Request:
    """A random request of a random task (see `Task.share`): a held-out one if `held_out`, else one of the others.

    `task_names` are the tasks to choose from, by default all.
    """
    tasks = [TASKS[name] for name in task_names or TASKS]
    (task,) = rng.choices(tasks, [task.share for task in tasks])
    while True:
        request = task.draw(rng)
        if is_held_out(request) == held_out:
            return request


def is_held_out(request: Request) -> bool:
    """Whether the request's combination (such as name and animal, or two operands) is reserved for the test."""
    return TASKS[request.task_name].combination(request) in _held_out_combinations(request.task_name)


@cache
def _held_out_combinations(task_name: str) -> frozenset[tuple[str, ...]]:
    # Shuffling gives the exact share even if a task has few combinations; selecting by hash would not.
    combinations = sorted(TASKS[task_name].combinations())
    random.Random(f"held out {task_name}").shuffle(combinations)
    return frozenset(combinations[: round(HELD_OUT_SHARE * len(combinations))])


def phrase_request(request: Request, rng: random.Random) -> str:
    """The request as text, from a random template of its kind."""
    return REQUESTS.generate(request.kind, rng, **request.slots)


def format_prompt(question: str) -> str:
    """The prompt given to the models. A completion begins with a space."""
    return f"{USER}{question}{BOT}"


def parse_prompt(prompt: str) -> Request | None:
    """The request that the prompt contains; None if it is not a request of this world."""
    if not (prompt.startswith(USER) and prompt.endswith(BOT)):
        return None
    parses = REQUESTS.parse(prompt[len(USER) : -len(BOT)])
    if not parses:
        return None
    slots = {slot: value for slot, value in parses[0].slots.items() if slot not in PRONOUN_SLOTS}
    return Request(parses[0].kind, slots)
