"""Gold score: the true quality of an answer, 0 to 10. The labeller perceives it with noise; PPO never sees it.

gold = max(0, 10 x weighted share of the task's criteria that the answer meets - 2 x number of faults).
The faults are an ungrammatical sentence, a missing end of sequence, and a repeated sentence.
"""

from data.world.grammar import split_sentences
from data.world.requests import parse_prompt
from data.world.sentences import GRAMMAR
from data.world.tasks import TASKS
from data.world.tasks.base import Request

FAULTS = ("grammatical", "ended", "unrepeated")
PENALTY = 2.0


def assess(request: Request, answer: str, ended: bool) -> dict[str, bool]:
    """Whether the answer meets each criterion of the task, and whether it is free of each fault in FAULTS.

    `ended` says whether the answer ended with an eos.
    """
    sentences = split_sentences(answer)
    parses = [GRAMMAR.parse(sentence) for sentence in sentences]
    return {
        **TASKS[request.task_name].criteria(request, parses),
        "grammatical": bool(sentences) and all(parses),
        "ended": ended,
        "unrepeated": len(set(sentences)) == len(sentences),
    }


def score(request: Request, answer: str, ended: bool = True) -> float:
    """The gold score of one answer, 0 to 10. `ended` says whether the answer ended with an eos."""
    weights = TASKS[request.task_name].weights
    passed = assess(request, answer, ended)
    met = sum(weight for criterion, weight in weights.items() if passed[criterion])
    faults = sum(not passed[fault] for fault in FAULTS)
    return max(0.0, 10 * met / sum(weights.values()) - PENALTY * faults)


def contributions(request: Request, answer: str, ended: bool = True) -> dict[str, float]:
    """What each criterion and each fault adds to the gold score; their sum is the score, up to rounding.

    `floor` raises a negative sum to 0.
    """
    weights = TASKS[request.task_name].weights
    passed = assess(request, answer, ended)
    parts = {name: 10 * weight * passed[name] / sum(weights.values()) for name, weight in weights.items()}
    parts |= {fault: -PENALTY * (not passed[fault]) for fault in FAULTS}
    return {**parts, "floor": max(0.0, -sum(parts.values()))}


def criteria(prompts: list[str], completions: list[str], ended: list[bool], **_) -> list[dict[str, float] | None]:
    """The parts of the gold score of each completion, see `contributions`; None as in `gold`."""
    requests = map(parse_prompt, prompts)
    return [None if r is None else contributions(r, c, e) for r, c, e in zip(requests, completions, ended, strict=True)]


def gold(prompts: list[str], completions: list[str], ended: list[bool], **_) -> list[float | None]:
    """The gold score, 0 to 10, of each completion; None if its prompt is not a request of this world.

    Has the signature of a reward function: further columns are ignored.
    """
    requests = map(parse_prompt, prompts)
    return [None if r is None else score(r, c, e) for r, c, e in zip(requests, completions, ended, strict=True)]
