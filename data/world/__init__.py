"""A small English world, made by the project itself: its text, its requests, and who judges the answers.

There is one world, with fixed facts; a seed decides what is said of it. See data/README.md.
"""

import random
from collections.abc import Iterator

from data.world.documents import pretraining_document
from data.world.gold import gold
from data.world.requests import ask, draw_request, prompt_of
from data.world.sentences import GRAMMAR
from data.world.tasks import TASKS
from data.world.words import ATTRIBUTES, FACTS

__all__ = ["demonstrations", "gold", "probes", "prompts", "text"]

FAULT = 0.06  # probability with which a demonstration has an ungrammatical sentence, and with which it says one twice


def text(count: int, seed: int, test: bool = False) -> Iterator[dict[str, str]]:
    """Pretraining documents."""
    rng = _rng("text", seed, test)
    return ({"text": pretraining_document(rng)} for _ in range(count))


def demonstrations(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Requests with answers as people write them, fulfilling some criteria and failing others."""
    rng = _rng("demonstrations", seed)
    for _ in range(count):
        request = draw_request(rng)
        flaws = {criterion for criterion, missed in request.task.missed.items() if rng.random() < missed}
        flaws |= {fault for fault in ("grammatical", "unrepeated") if rng.random() < FAULT}
        answer = request.task.answer(request, flaws, rng)
        yield {"prompt": prompt_of(ask(request, rng)), "completion": f" {answer}"}


def prompts(count: int, seed: int, test: bool = False) -> Iterator[dict[str, str]]:
    """Requests alone; those for the test ask combinations that no other request does."""
    rng = _rng("prompts", seed, test)
    for _ in range(count):
        request = draw_request(rng, held_out=test)
        yield {"prompt": prompt_of(ask(request, rng)), "task": request.kind.split()[0]}


def probes() -> Iterator[dict[str, str]]:
    """Beginnings whose continuation shows what pretraining has taught: each fact, each equation."""
    rng = _rng("probes")
    for (name, attribute), value in FACTS.items():
        sentence = GRAMMAR.templates[attribute][0].fill(rng, {"name": name, ATTRIBUTES[attribute]: value})
        yield _probe("facts", sentence, value)
    for sign, number, number2 in TASKS["sum"].combinations():
        result = int(number) + int(number2) if sign == "plus" else int(number) - int(number2)
        given = {"number": number, "number2": number2, "number3": str(result)}
        yield _probe("equations", GRAMMAR.write(f"equation {sign}", rng, **given), str(result))


def _probe(kind: str, sentence: str, value: str) -> dict[str, str]:
    start = sentence.rindex(f" {value}")
    return {"probe": kind, "prompt": sentence[:start], "completion": sentence[start:]}


def _rng(*what) -> random.Random:
    return random.Random(" ".join(map(str, what)))
