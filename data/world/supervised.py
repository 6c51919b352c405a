"""Supervised tasks of the world whose labels are true by construction, one for each form of input of GPT-1.

    topic        {text, label}                    from which of eight categories most of the listed words are
    entailment   {premise, hypothesis, label}     whether a sentence follows from a story
    similarity   {text1, text2, label}            whether two requests mean the same
    choice       {context, choices, label}        which ending fits the story

No training row has a combination of a held-out row: for `topic` a word, for the others those of `Task.combination`.
In all but `topic` no single word tells the label, because each is as frequent with every label: texts must be compared.
"""

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from data.world.requests import draw_request, is_held_out
from data.world.sentences import GRAMMAR, REQUESTS
from data.world.tasks.base import Request, Slots, draw_other
from data.world.words import MEMBERS, WORDS

Row = dict[str, Any]
HELD_OUT_WORDS = 3  # the test of `topic` has every third word of each category


def supervised(name: str, count: int, seed: int, test: bool = False) -> Iterator[Row]:
    """Yields distinct rows of the task `name`, held-out ones if `test`, else only others."""
    rng, seen = random.Random(f"supervised {name} {seed} {test}"), set[str]()
    while len(seen) < count:
        row = SUPERVISED[name](rng, test)
        if (key := repr(row)) not in seen:
            seen.add(key)
            yield row


# --- topic ------------------------------------------------------------------------------------------------------------


def topic(rng: random.Random, test: bool) -> Row:
    """A list of words, one of them of another category. The test has words that no training row has."""
    category = rng.choice(sorted(MEMBERS))
    items = rng.sample(_words(category, test), rng.randint(2, 3))
    items.insert(rng.randint(0, len(items)), rng.choice(_words(draw_other(category, sorted(MEMBERS), rng), test)))
    listed = ", ".join(items[:-1]) + " and " + items[-1]
    return {"text": GRAMMAR.generate("bare list", rng, items=listed), "label": category}


@cache
def _words(category: str, test: bool) -> tuple[str, ...]:
    """The words of a category that the test has, or the others."""
    words = sorted(MEMBERS[category])
    random.Random(f"topic {category}").shuffle(words)
    return tuple(word for i, word in enumerate(words) if (i % HELD_OUT_WORDS == 0) == test)


# --- entailment and choice --------------------------------------------------------------------------------------------


def entailment(rng: random.Random, test: bool) -> Row:
    """A story that shows how its hero feels but does not say it, and a sentence that says it, truly or not."""
    slots = _story_slots(rng, test)
    premise = [*_sentences(("event", "trouble"), slots, rng), _ending(slots["feeling"], slots, rng)]
    true = rng.random() < 0.5
    said = slots["feeling"] if true else draw_other(slots["feeling"], WORDS["feeling"], rng)
    hypothesis = GRAMMAR.generate("opening", rng, **{**slots, "feeling": said})
    return {"premise": " ".join(premise), "hypothesis": hypothesis, "label": "yes" if true else "no"}


def choice(rng: random.Random, test: bool) -> Row:
    """A story without its ending, and an ending for each feeling that does not name it; one shows the hero's."""
    slots = _story_slots(rng, test)
    feelings = rng.sample(WORDS["feeling"], len(WORDS["feeling"]))
    return {
        "context": " ".join(_sentences(("opening", "event"), slots, rng)),
        "choices": [_ending(feeling, slots, rng) for feeling in feelings],
        "label": feelings.index(slots["feeling"]),
    }


def _story_slots(rng: random.Random, test: bool) -> Slots:
    """The hero of a story, and the fillers of its other slots, each of which is the same in all sentences."""
    slots = {
        **_draw("story", rng, test).slots,
        **{slot: rng.choice(WORDS[slot]) for slot in ("place", "thing", "food")},
    }
    return {**slots, "name2": draw_other(slots["name"], WORDS["name"], rng)}


def _sentences(kinds: tuple[str, ...], slots: Slots, rng: random.Random) -> list[str]:
    """Sentences of a story, one of each kind."""
    return [GRAMMAR.generate(kind, rng, **slots) for kind in kinds]


def _ending(feeling: str, slots: Slots, rng: random.Random) -> str:
    """An ending that shows a feeling without naming it."""
    return rng.choice([t for t in GRAMMAR.templates[f"ending {feeling}"] if feeling not in t.text]).fill(rng, slots)


def _draw(task: str, rng: random.Random, test: bool) -> Request:
    """A random request of a task of `TASKS`: a held-out one if `test`, else one of the others."""
    return draw_request(rng, test, [task])


# --- similarity -------------------------------------------------------------------------------------------------------


def similarity(rng: random.Random, test: bool) -> Row:
    """Two requests in different words about the same people and things, which ask for the same or for something else."""
    request = _draw(rng.choice(("fact", "note")), rng, test)
    kinds = [kind for kind in REQUESTS.templates if kind.split()[0] == request.task_name]
    if not test:  # the other request must not be a held-out one either
        kinds = [kind for kind in kinds if not is_held_out(Request(kind, request.slots))]
    same = rng.random() < 0.5
    kind = request.kind if same else draw_other(request.kind, kinds, rng)
    one, two = rng.sample(range(2), 2)  # which of the two wordings of each kind
    texts = [REQUESTS.templates[k][n].fill(rng, request.slots) for k, n in ((request.kind, one), (kind, two))]
    return {"text1": texts[0], "text2": texts[1], "label": "same" if same else "different"}


FORM_OF = {"topic": "classification", "entailment": "entailment", "similarity": "similarity", "choice": "choice"}
SUPERVISED: dict[str, Callable[[random.Random, bool], Row]] = {
    "topic": topic,
    "entailment": entailment,
    "similarity": similarity,
    "choice": choice,
}
