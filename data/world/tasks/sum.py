"""Task: solve a word problem with one addition or subtraction."""

import random
from itertools import product

from data.world.sentences import GRAMMAR
from data.world.tasks.base import Request, Task, is_friendly, select_parses
from data.world.words import WORDS


class Sum(Task):
    """Criteria of a good answer.

    - correct: the answer states the result, and every stated result has the requested number, things and name.
    - steps: the answer has an equation, and every equation has the requested sign and operands.
    - friendly: see `is_friendly`.
    """

    share = 0.15
    weights = {"correct": 3, "steps": 2, "friendly": 2}
    miss_rates = {"correct": 0.25, "steps": 0.6, "friendly": 0.6}

    def draw(self, rng):
        sign = rng.choice(("plus", "minus"))
        a, b = rng.randint(2, 10), rng.randint(2, 10)
        slots = {"name": rng.choice(WORDS["name"]), "things": rng.choice(WORDS["things"])}
        return Request(f"sum {sign}", {**slots, "number": str(a if sign == "plus" else a + b), "number2": str(b)})

    def combination(self, request):
        return request.subject, request.slots["number"], request.slots["number2"]

    def combinations(self):
        for a, b in product(range(2, 11), repeat=2):
            yield "plus", str(a), str(b)
            yield "minus", str(a + b), str(b)

    def result(self, request: Request) -> int:
        """The correct result."""
        a, b = int(request.slots["number"]), int(request.slots["number2"])
        return a + b if request.subject == "plus" else a - b

    def equation(self, request: Request, rng: random.Random, result: int | None = None) -> str:
        """The request as an equation, with `result` or, if it is None, with the correct result."""
        number3 = str(self.result(request) if result is None else result)
        return GRAMMAR.generate(f"equation {request.subject}", rng, **request.slots, number3=number3)

    def body(self, request, flaws, rng):
        slots, result = request.slots, self.result(request)
        if "correct" in flaws:
            result = rng.choice([n for n in range(max(1, result - 3), min(20, result + 3) + 1) if n != result])
        steps = [GRAMMAR.generate(f"start {request.subject}", rng, **slots), self.equation(request, rng, result)]
        conclusion = GRAMMAR.generate("result", rng, name=slots["name"], things=slots["things"], number=str(result))
        return [conclusion] if "steps" in flaws else [*steps, conclusion]

    def criteria(self, request, parses):
        requested, truth = request.slots, str(self.result(request))
        results = select_parses(parses, "result")
        steps = select_parses(parses, f"equation {request.subject}")
        equations = select_parses(parses, "equation")
        return {
            "correct": bool(results)
            and all(
                p.slots["number"] == truth
                and p.slots["things"] == requested["things"]
                and p.slots.get("name", requested["name"]) == requested["name"]
                for p in results
            ),
            "steps": bool(steps)
            and len(steps) == len(equations)
            and all(p.slots[slot] == requested[slot] for p in steps for slot in ("number", "number2")),
            "friendly": is_friendly(parses),
        }
