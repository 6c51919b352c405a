"""Task: write a note that thanks someone for a thing, says sorry about it, or asks for it."""

from itertools import product

from data.world.sentences import GRAMMAR
from data.world.tasks.base import Request, Task, draw_other, select_parses
from data.world.words import WORDS


class Note(Task):
    """Criteria of a good note.

    - greets: it greets the reader, and nobody else.
    - purpose: it states the requested purpose and thing, and no other.
    - polite: every statement of a purpose is polite.
    - body: it has a further sentence that fits the reader and the thing.
    - signed: it is signed by the writer, and by nobody else.
    """

    share = 0.13
    weights = {"greets": 2, "purpose": 2, "polite": 1, "body": 1, "signed": 1}
    miss_rates = {"greets": 0.3, "purpose": 0.25, "polite": 0.55, "body": 0.6, "signed": 0.35}
    purposes = ("thank", "sorry", "ask")

    def draw(self, rng):
        name, name2 = rng.sample(WORDS["name"], 2)
        return Request(
            f"note {rng.choice(self.purposes)}", {"name": name, "name2": name2, "thing": rng.choice(WORDS["thing"])}
        )

    def combination(self, request):
        return request.slots["name2"], request.slots["thing"]

    def combinations(self):
        return product(WORDS["name"], WORDS["thing"])

    def body(self, request, flaws, rng):
        writer, reader, thing = (request.slots[slot] for slot in ("name", "name2", "thing"))
        purpose = request.subject
        if "purpose" in flaws:
            if rng.random() < 0.5:
                purpose = draw_other(purpose, self.purposes, rng)
            else:
                thing = draw_other(thing, WORDS["thing"], rng)
        greeting = GRAMMAR.generate(
            "greeting", rng, name=draw_other(reader, WORDS["name"], rng) if "greets" in flaws else reader
        )
        kind = f"rude {purpose}" if "polite" in flaws else purpose
        note = [greeting] if "greets" not in flaws or rng.random() < 0.5 else []
        note.append(GRAMMAR.generate(kind, rng, thing=thing))
        if "body" not in flaws:
            note.append(GRAMMAR.generate("body", rng, name2=reader, thing=thing))
        if "signed" not in flaws:
            note.append(GRAMMAR.generate("signature", rng, name=writer))
        elif rng.random() < 0.5:
            note.append(GRAMMAR.generate("signature", rng, name=draw_other(writer, WORDS["name"], rng)))
        return note

    def criteria(self, request, parses):
        requested, purpose, reader = request.slots, request.subject, request.slots["name2"]
        greetings, signatures = select_parses(parses, "greeting"), select_parses(parses, "signature")
        polite = select_parses(parses, *self.purposes)
        statements = polite + select_parses(parses, *(f"rude {kind}" for kind in self.purposes))
        # the body must fit the thing that the note is about, even if that is not the requested one
        thing = statements[0].slots["thing"] if statements else requested["thing"]
        bodies = select_parses(parses, "body")
        return {
            "greets": bool(greetings) and all(p.slots["name"] == reader for p in greetings),
            "purpose": bool(statements)
            and all(p.kind.split()[-1] == purpose and p.slots["thing"] == requested["thing"] for p in statements),
            "polite": bool(statements) and len(polite) == len(statements),
            "body": any(
                p.slots.get("thing", thing) == thing and p.slots.get("name2", reader) == reader for p in bodies
            ),
            "signed": bool(signatures) and all(p.slots["name"] == requested["name"] for p in signatures),
        }
