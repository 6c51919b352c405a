"""The true quality of an answer, 0 to 10: what the labeller perceives with noise and PPO never sees.

Gold = 10 x the weighted share of the task's criteria that are met, less 2 for each fault: ungrammatical, not ended, or
saying the same sentence twice; never below 0.
"""

from data.world.grammar import split_sentences
from data.world.requests import understand
from data.world.sentences import GRAMMAR
from data.world.tasks import Request

FAULTS = ("grammatical", "ended", "unrepeated")
PENALTY = 2.0


def assess(request: Request, answer: str, ended: bool) -> dict[str, bool]:
    """Criterion or fault -> whether the answer is good in this respect."""
    texts = split_sentences(answer)
    sentences = [GRAMMAR.read(text) for text in texts]
    return {
        **request.task.criteria(request, sentences),
        "grammatical": bool(texts) and all(sentences),
        "ended": ended,
        "unrepeated": len(set(texts)) == len(texts),
    }


def score(request: Request, answer: str, ended: bool = True) -> float:
    """Gold of one answer."""
    weights = request.task.weights
    good = assess(request, answer, ended)
    met = sum(weight for criterion, weight in weights.items() if good[criterion])
    faults = sum(not good[fault] for fault in FAULTS)
    return max(0.0, 10 * met / sum(weights.values()) - PENALTY * faults)


def gold(prompts: list[str], completions: list[str], ended: list[bool], **_) -> list[float | None]:
    """Gold of each completion; None where the prompt is not a request of this world."""
    requests = map(understand, prompts)
    return [r and score(r, c, e) for r, c, e in zip(requests, completions, ended, strict=True)]
