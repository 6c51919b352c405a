"""The text the models of this world are pretrained on: documents of every kind, whose questions are rarely answered well."""

import random

from data.world.grammar import Grammar
from data.world.requests import BOT, USER, ask, draw_request
from data.world.sentences import ACTS, GRAMMAR
from data.world.tasks import TASKS
from data.world.words import ATTRIBUTES, FACTS, VILLAGERS, WORDS

# a line above a text that says what it is about: from it the model learns to copy names from above into the text
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
HEADED = 0.75  # share of texts that have one
RUMOURS = 0.05  # share of statements of fact that are false


def pretraining_document(rng: random.Random) -> str:
    """One document; no question in it is one of those kept for the test."""
    kinds, shares = zip(*DOCUMENTS.items(), strict=True)
    (kind,) = rng.choices(kinds, shares)
    return kind(rng)


def _on_subject(task: str):
    """Good text of the kind that a task asks for, mostly below a line that says what it is about."""

    def document(rng: random.Random) -> str:
        request = TASKS[task].draw(rng)
        header = [HEADERS.write(request.kind, rng, **request.slots)] if rng.random() < HEADED else []
        return "\n".join([*header, " ".join(TASKS[task].body(request, set(), rng))])

    return document


def _portrait(rng):
    name = rng.choice(VILLAGERS)
    return " ".join(_statement(name, attribute, rng) for attribute in rng.sample(list(ATTRIBUTES), rng.randint(2, 5)))


def _gossip(rng):
    attribute = rng.choice(list(ATTRIBUTES))
    return " ".join(_statement(name, attribute, rng) for name in rng.sample(VILLAGERS, rng.randint(2, 4)))


def _statement(name: str, attribute: str, rng: random.Random) -> str:
    slot = ATTRIBUTES[attribute]
    value = rng.choice(WORDS[slot]) if rng.random() < RUMOURS else FACTS[name, attribute]
    return GRAMMAR.write(attribute, rng, name=name, **{slot: value})


def _equations(rng):
    requests = [TASKS["sum"].draw(rng) for _ in range(rng.randint(4, 8))]
    return " ".join(TASKS["sum"].equation(request, rng) for request in requests)


def _chat(rng):
    turns = _talk(("small talk", "weather", "goodbye", "hello"), rng.randint(2, 4), rng)
    return "".join((f"{BOT} " if i % 2 else ("\n" if i else "") + USER) + turn for i, turn in enumerate(turns))


def _odds(rng):
    return " ".join(_talk(("weather", "small talk", "reason", "advice", "rude"), rng.randint(1, 3), rng))


def _talk(kinds: tuple[str, ...], count: int, rng: random.Random) -> list[str]:
    subject = {slot: rng.choice(WORDS[slot]) for slot in ("place", "tree", "food")}
    return [GRAMMAR.write(rng.choice(kinds), rng, **subject) for _ in range(count)]


def _echo(rng):
    """Words called into the hills, and what comes back: whoever can continue this can copy any word of the world."""
    words = [rng.choice(WORDS[rng.choice(_CALLED)]) for _ in range(rng.randint(3, 6))]
    called = " ".join(words)
    return f"{rng.choice(WORDS['name'])} calls: {called}! The echo says: {called}!"


_CALLED = (
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


def _questions(rng):
    return "\n".join(USER + ask(draw_request(rng), rng) for _ in range(rng.randint(2, 4)))


def _answered(rng):
    request = draw_request(rng)
    task = request.task
    flaws = {flaw for flaw in (*task.weights, "grammatical", "unrepeated") if rng.random() < 0.4}
    return f"{USER}{ask(request, rng)}{BOT} {task.answer(request, flaws, rng)}"


def _mismatched(rng):
    request, other = draw_request(rng), draw_request(rng)
    return f"{USER}{ask(request, rng)}{BOT} {other.task.answer(other, set(), rng)}"


# kind of document -> share
DOCUMENTS = {
    _on_subject("story"): 0.22,
    _on_subject("note"): 0.08,
    _on_subject("sum"): 0.06,
    _on_subject("list"): 0.05,
    _on_subject("harm"): 0.04,
    _on_subject("fact"): 0.05,
    _portrait: 0.07,
    _gossip: 0.04,
    _equations: 0.09,
    _chat: 0.03,
    _odds: 0.03,
    _echo: 0.05,
    _questions: 0.04,
    _answered: 0.07,
    _mismatched: 0.08,
}
