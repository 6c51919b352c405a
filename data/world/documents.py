"""Pretraining documents: many kinds of text. Few of them answer a request well."""

import random
from collections.abc import Sequence

from data.world.grammar import Grammar
from data.world.requests import BOT, USER, draw_request, phrase_request
from data.world.sentences import ACTS, GRAMMAR
from data.world.tasks import TASKS
from data.world.tasks.sum import Sum
from data.world.words import ATTRIBUTES, FACTS, VILLAGERS, WORDS

# A header gives the topic of the text below it. Headers teach the model to copy names from the context.
HEADERS = Grammar(
    {
        "story": (
            "A story in {count} sentences about a {feeling} {animal} named {name}:",
            "{name}, the {feeling} {animal}, in {count} sentences:",
        ),
        "note thank": ("A note from {name} to {name2}, with thanks for the {thing}:",),
        "note sorry": ("A note from {name} to {name2}, sorry about the {thing}:",),
        "note ask": ("A note from {name} to {name2}, to ask for the {thing}:",),
        "list": ("A list of {count} {category}:", "{count} {category}, no more and no less:"),
        "sum plus": ("{name}, with {number} {things} and {number2} more:",),
        "sum minus": ("{name}, with {number} {things} but {number2} less:",),
        **{f"fact {attribute}": (f"The {attribute} of {{name}}:",) for attribute in ATTRIBUTES},
        **{f"harm {verb}": (f"Why one should not {act}:",) for verb, act in ACTS.items()},
    }
)
HEADER_RATE = 0.75  # probability that a text on a task has a header
FALSE_FACT_RATE = 0.05  # probability that the value of a stated fact is drawn at random
FLAW_RATE = 0.4  # probability of each flaw in an answered request


def pretraining_document(rng: random.Random, task_names: Sequence[str] = ()) -> str:
    """One document of a random kind; with `task_names` a text on one of these tasks, for sums also mere equations.

    It contains no held-out request. A text with a header may be about a held-out combination.
    """
    on_tasks = {**{_text_on(name): 1.0 for name in task_names}, **({_equations: 1.0} if "sum" in task_names else {})}
    makers, shares = zip(*(on_tasks or DOCUMENT_SHARES).items(), strict=True)
    (make_document,) = rng.choices(makers, shares)
    return make_document(rng)


def _text_on(task_name: str):
    """A function that generates a text without flaws on a random request of the task, usually below a header."""

    def document(rng: random.Random) -> str:
        task = TASKS[task_name]
        request = task.draw(rng)
        header = [HEADERS.generate(request.kind, rng, **request.slots)] if rng.random() < HEADER_RATE else []
        return "\n".join([*header, " ".join(task.body(request, set(), rng))])

    return document


def _facts_on_one_villager(rng):
    name = rng.choice(VILLAGERS)
    return " ".join(_fact(name, attribute, rng) for attribute in rng.sample(list(ATTRIBUTES), rng.randint(2, 5)))


def _facts_on_one_attribute(rng):
    attribute = rng.choice(list(ATTRIBUTES))
    return " ".join(_fact(name, attribute, rng) for name in rng.sample(VILLAGERS, rng.randint(2, 4)))


def _fact(name: str, attribute: str, rng: random.Random) -> str:
    slot = ATTRIBUTES[attribute]
    value = rng.choice(WORDS[slot]) if rng.random() < FALSE_FACT_RATE else FACTS[name, attribute]
    return GRAMMAR.generate(attribute, rng, name=name, **{slot: value})


def _equations(rng):
    task = TASKS["sum"]
    assert isinstance(task, Sum)
    requests = [task.draw(rng) for _ in range(rng.randint(4, 8))]
    return " ".join(task.equation(request, rng) for request in requests)


def _small_talk_dialogue(rng):
    turns = _small_talk(("small talk", "weather", "goodbye", "hello"), rng.randint(2, 4), rng)
    return "".join((f"{BOT} " if i % 2 else ("\n" if i else "") + USER) + turn for i, turn in enumerate(turns))


def _small_talk_monologue(rng):
    return " ".join(_small_talk(("weather", "small talk", "reason", "advice", "rude"), rng.randint(1, 3), rng))


def _small_talk(kinds: tuple[str, ...], count: int, rng: random.Random) -> list[str]:
    shared_slots = {slot: rng.choice(WORDS[slot]) for slot in ("place", "tree", "food")}
    return [GRAMMAR.generate(rng.choice(kinds), rng, **shared_slots) for _ in range(count)]


def _echo(rng):
    """Random words and their repetition, which teaches the model to copy any word of the vocabulary."""
    words = [rng.choice(WORDS[rng.choice(_ECHO_SLOTS)]) for _ in range(rng.randint(3, 6))]
    call = " ".join(words)
    return f"{rng.choice(WORDS['name'])} calls: {call}! The echo says: {call}!"


_ECHO_SLOTS = (
    "name",
    "animal",
    "pet",
    "place",
    "food",
    "colour",
    "job",
    "thing",
    "things",
    "feeling",
    "number",
    "count",
    "category",
)


def _unanswered_requests(rng):
    return "\n".join(USER + phrase_request(draw_request(rng), rng) for _ in range(rng.randint(2, 4)))


def _flawed_answer(rng):
    request = draw_request(rng)
    task = TASKS[request.task_name]
    flaws = {flaw for flaw in (*task.weights, "grammatical", "unrepeated") if rng.random() < FLAW_RATE}
    return f"{USER}{phrase_request(request, rng)}{BOT} {task.answer(request, flaws, rng)}"


def _answer_to_other_request(rng):
    request, other = draw_request(rng), draw_request(rng)
    return f"{USER}{phrase_request(request, rng)}{BOT} {TASKS[other.task_name].answer(other, set(), rng)}"


# function that generates a document -> share of all documents
DOCUMENT_SHARES = {
    _text_on("story"): 0.22,
    _text_on("note"): 0.08,
    _text_on("sum"): 0.06,
    _text_on("list"): 0.05,
    _text_on("harm"): 0.04,
    _text_on("fact"): 0.05,
    _facts_on_one_villager: 0.07,
    _facts_on_one_attribute: 0.04,
    _equations: 0.09,
    _small_talk_dialogue: 0.03,
    _small_talk_monologue: 0.03,
    _echo: 0.05,
    _unanswered_requests: 0.04,
    _flawed_answer: 0.07,
    _answer_to_other_request: 0.08,
}
