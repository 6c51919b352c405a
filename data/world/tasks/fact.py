"""Task: answer a question about an attribute of a person, or admit not to know the person."""

from itertools import product

from data.world.sentences import FACT_SENTENCES, GRAMMAR
from data.world.tasks.base import Request, Task, draw_other, is_friendly, select_parses
from data.world.words import ATTRIBUTES, FACTS, STRANGERS, VILLAGERS, WORDS


class Fact(Task):
    """Criteria of a good answer. The person is a villager, who has facts, or a stranger, who has none.

    - correct: the answer states the fact; about a stranger, it says that the person is unknown and states no fact.
    - whole: the answer is a whole sentence about the person, not a fragment.
    - friendly: see `is_friendly`.

    A whole sentence that states a fact of another person or attribute violates both "correct" and "whole".
    """

    share = 0.20
    weights = {"correct": 4, "whole": 1, "friendly": 2}
    miss_rates = {"correct": 0.25, "whole": 0.6, "friendly": 0.6}

    def draw(self, rng):
        name = rng.choice(STRANGERS if rng.random() < 0.2 else VILLAGERS)
        return Request(f"fact {rng.choice(list(ATTRIBUTES))}", {"name": name})

    def combination(self, request):
        return request.slots["name"], request.subject

    def combinations(self):
        return product(WORDS["name"], ATTRIBUTES)

    def body(self, request, flaws, rng):
        name, attribute = request.slots["name"], request.subject
        slot = ATTRIBUTES[attribute]
        truth = FACTS.get((name, attribute))
        # the truth about a stranger is None; an incorrect answer states a random value
        value = truth if "correct" not in flaws else draw_other(truth, WORDS[slot], rng)
        kind = attribute if value else "unknown"
        slots = {"name": name, **({slot: value} if value else {})}
        return [GRAMMAR.generate(f"short {kind}" if "whole" in flaws else kind, rng, **slots)]

    def criteria(self, request, parses):
        name, attribute = request.slots["name"], request.subject
        slot, truth = ATTRIBUTES[attribute], FACTS.get((name, attribute))
        whole = [p for p in select_parses(parses, attribute) if p.slots["name"] == name]
        claims = [p.slots[slot] for p in whole + select_parses(parses, f"short {attribute}")]
        unknown = [p for p in select_parses(parses, "unknown") if p.slots["name"] == name]
        ignorance = unknown + select_parses(parses, "short unknown")
        off_topic = len(select_parses(parses, *FACT_SENTENCES)) > len(whole)
        states_truth = set(claims) == {truth} and not ignorance
        return {
            "correct": not off_topic and (states_truth if truth else bool(ignorance) and not claims),
            "whole": bool(whole or unknown) and not off_topic,
            "friendly": is_friendly(parses),
        }
