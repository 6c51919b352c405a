"""Task: write a story of three to five sentences about an animal with a name and a feeling."""

from itertools import product

from data.world.sentences import GRAMMAR, STORY
from data.world.tasks.base import Request, Task, draw_other, select_parses
from data.world.words import COUNTS, PRONOUNS, WORDS


class Story(Task):
    """Criteria of a good story.

    - subject: it has an opening, and every opening has the requested name and animal.
    - length: it has the requested number of story sentences.
    - feeling: it has an ending, and all openings and endings show the requested feeling.
    - coherent: the sentences follow a plot, and each slot has one filler in the whole story.
    """

    share = 0.30
    weights = {"subject": 2, "length": 2, "feeling": 2, "coherent": 1}
    miss_rates = {"subject": 0.2, "length": 0.35, "feeling": 0.35, "coherent": 0.25}
    plots = {
        3: ("opening", "event", "ending"),
        4: ("opening", "event", "trouble", "ending"),
        5: ("opening", "event", "trouble", "help", "ending"),
    }
    kinds = tuple(STORY)

    def draw(self, rng):
        slots = {slot: rng.choice(WORDS[slot]) for slot in ("name", "animal", "feeling")}
        return Request("story", {**slots, "count": rng.choice(("three", "four", "five"))})

    def combination(self, request):
        return request.slots["name"], request.slots["animal"]

    def combinations(self):
        return product(WORDS["name"], WORDS["animal"])

    def body(self, request, flaws, rng):
        slots, length = dict(request.slots), COUNTS[request.slots["count"]]
        feeling = slots["feeling"]
        if "subject" in flaws:
            slot = rng.choice(("name", "animal"))
            slots[slot] = draw_other(slots[slot], WORDS[slot], rng)
        if "length" in flaws:
            length = draw_other(length, self.plots, rng)
        if "feeling" in flaws:
            feeling = draw_other(feeling, WORDS["feeling"], rng)
            slots["feeling"] = rng.choice((feeling, slots["feeling"]))
        # One filler for the whole story: if each sentence drew its own, the story would be incoherent. draw_other only
        # matters for name2, which must not be the hero.
        for slot in ("place", "thing", "food", "name2"):
            slots[slot] = draw_other(slots["name"], WORDS[slot.rstrip("2")], rng)
        kinds = [f"ending {feeling}" if kind == "ending" else kind for kind in self.plots[length]]
        story = [GRAMMAR.generate(kind, rng, **slots) for kind in kinds]
        return _shuffled(story, rng) if "coherent" in flaws else story

    def criteria(self, request, parses):
        story = select_parses(parses, *self.kinds)
        openings, endings = select_parses(parses, "opening"), select_parses(parses, "ending")
        requested = request.slots
        feelings = {p.slots["feeling"] for p in openings} | {p.kind.split()[-1] for p in endings}
        return {
            "subject": bool(openings) and all(p.slots[k] == requested[k] for p in openings for k in ("name", "animal")),
            "length": len(story) == COUNTS[requested["count"]],
            "feeling": bool(endings) and feelings == {requested["feeling"]},
            "coherent": self._is_coherent(story),
        }

    def _is_coherent(self, story):
        plot = tuple(p.kind.split()[0] for p in story)
        if plot not in self.plots.values():
            return False
        hero = story[0].slots["name"]
        fillers = {"name": hero, **PRONOUNS[hero]}
        for sentence in story:
            for slot, value in sentence.slots.items():
                if fillers.setdefault(slot, value) != value:
                    return False
        return fillers.get("name2") != hero


def _shuffled(story, rng):
    """The sentences in a different order."""
    shuffled = list(story)
    while shuffled == story:
        rng.shuffle(shuffled)
    return shuffled
