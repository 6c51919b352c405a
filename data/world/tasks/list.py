"""Task: list a number of members of a category."""

from itertools import product

from data.world.sentences import GRAMMAR
from data.world.tasks.base import Request, Task, draw_other, is_friendly, select_parses
from data.world.words import COUNTS, MEMBERS, WORDS


class List(Task):
    """Criteria of a good list. An answer without a list, or with several, meets none of the first four.

    - count: it has the requested number of items.
    - members: all items belong to the category.
    - distinct: no item occurs twice.
    - introduced: the sentence states the requested number and category.
    - friendly: see `is_friendly`.
    """

    share = 0.10
    weights = {"count": 2, "members": 2, "distinct": 1, "introduced": 1, "friendly": 2}
    miss_rates = {"count": 0.3, "members": 0.2, "distinct": 0.2, "introduced": 0.6, "friendly": 0.6}

    def draw(self, rng):
        return Request("list", {slot: rng.choice(WORDS[slot]) for slot in ("count", "category")})

    def combination(self, request):
        return request.slots["count"], request.slots["category"]

    def combinations(self):
        return product(WORDS["count"], WORDS["category"])

    def body(self, request, flaws, rng):
        category = request.slots["category"]
        length = COUNTS[request.slots["count"]]
        if "count" in flaws:
            length = draw_other(length, range(2, 6), rng)
        items = rng.sample(MEMBERS[category], length)
        if "members" in flaws:
            items[rng.randrange(length)] = rng.choice(MEMBERS[draw_other(category, MEMBERS, rng)])
        if "distinct" in flaws:
            first, second = rng.sample(range(length), 2)
            items[second] = items[first]
        kind = "bare list" if "introduced" in flaws else "list"
        return [GRAMMAR.generate(kind, rng, **request.slots, items=_enumeration(items))]

    def criteria(self, request, parses):
        lists = select_parses(parses, "list", "bare list")
        items = lists[0].slots["items"].replace(" and ", ", ").split(", ") if len(lists) == 1 else []
        introduced = bool(items) and lists[0].kind == "list"
        return {
            "count": len(items) == COUNTS[request.slots["count"]],
            "members": bool(items) and set(items) <= set(MEMBERS[request.slots["category"]]),
            "distinct": bool(items) and len(set(items)) == len(items),
            "introduced": introduced and all(lists[0].slots[k] == v for k, v in request.slots.items()),
            "friendly": is_friendly(parses),
        }


def _enumeration(items: list[str]) -> str:
    return ", ".join(items[:-1]) + " and " + items[-1]
