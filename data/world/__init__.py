"""A synthetic English world: pretraining text, requests with answers, and a function that scores answers.

The facts of the world are fixed; a seed only selects what is sampled. See data/README.md.
"""

import random
from collections.abc import Iterator, Sequence

from data.world.documents import pretraining_document
from data.world.gold import criteria, gold
from data.world.requests import draw_request, format_prompt, phrase_request
from data.world.sentences import GRAMMAR
from data.world.tasks import TASKS
from data.world.tasks.sum import Sum
from data.world.words import ATTRIBUTES, FACTS

__all__ = ["TASKS", "criteria", "demonstrations", "gold", "probes", "prompts", "text"]

FAULT_RATE = 0.06  # probability of an ungrammatical sentence in a demonstration, and of a repeated one


def text(count: int, seed: int, test: bool = False, task_names: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Yields pretraining documents: {"text"}. `test` draws from another random stream of the same distribution.

    `task_names` are the tasks of the documents; by default all tasks and other kinds of text.
    """
    rng = _rng("text", seed, test)
    return ({"text": pretraining_document(rng, task_names)} for _ in range(count))


def demonstrations(count: int, seed: int, task_names: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Yields requests with answers of mixed quality: {"prompt", "completion"}. `task_names` are by default all tasks.

    An answer misses each criterion of its task with the probability given by `Task.miss_rates`.
    """
    rng = _rng("demonstrations", seed)
    for _ in range(count):
        request = draw_request(rng, task_names=task_names)
        task = TASKS[request.task_name]
        flaws = {criterion for criterion, miss_rate in task.miss_rates.items() if rng.random() < miss_rate}
        flaws |= {fault for fault in ("grammatical", "unrepeated") if rng.random() < FAULT_RATE}
        answer = task.answer(request, flaws, rng)
        yield {"prompt": format_prompt(phrase_request(request, rng)), "completion": f" {answer}"}


def prompts(
    count: int, seed: int, test: bool = False, task_names: Sequence[str] = (), stream: str = "prompts"
) -> Iterator[dict[str, str]]:
    """Yields requests without answers: {"prompt", "task"}; held-out requests if `test`, else only others.

    If `task_names` is given, sum requests have a column `answer` with the result. `stream` names the random stream.
    """
    rng = _rng(stream, seed, test)
    for _ in range(count):
        request = draw_request(rng, test, task_names)
        row = {"prompt": format_prompt(phrase_request(request, rng)), "task": request.task_name}
        task = TASKS[request.task_name]
        yield {**row, "answer": str(task.result(request))} if task_names and isinstance(task, Sum) else row


def probes() -> Iterator[dict[str, str]]:
    """Yields cloze probes of what pretraining has taught: {"probe", "prompt", "completion"}.

    One for each fact ("facts") and one for each sum or difference ("equations"); the completions are correct.
    """
    rng = _rng("probes")
    for (name, attribute), value in FACTS.items():
        sentence = GRAMMAR.templates[attribute][0].fill(rng, {"name": name, ATTRIBUTES[attribute]: value})
        yield _probe("facts", sentence, value)
    for sign, number, number2 in TASKS["sum"].combinations():
        result = int(number) + int(number2) if sign == "plus" else int(number) - int(number2)
        slots = {"number": number, "number2": number2, "number3": str(result)}
        yield _probe("equations", GRAMMAR.generate(f"equation {sign}", rng, **slots), str(result))


def _probe(kind: str, sentence: str, value: str) -> dict[str, str]:
    start = sentence.rindex(f" {value}")
    return {"probe": kind, "prompt": sentence[:start], "completion": sentence[start:]}


def _rng(*parts) -> random.Random:
    """A generator seeded with the parts, so that each kind of row has its own random stream."""
    return random.Random(" ".join(map(str, parts)))
