"""Rankings: K answers with ranks or scores, two answers of which one is better, single answers with a rating."""

import os.path
from collections.abc import Callable
from typing import Any

from data.shapes.instructions import joined, own_completion, own_prompt
from data.shapes.values import (
    Drop,
    Messages,
    Unfit,
    asked,
    from_json,
    kind_of,
    messages,
    number,
    reply,
    text,
    transcript,
)
from rlhf.rows import Row

# --- K answers --------------------------------------------------------------------------------------------------------


def own(prompt: Any, completions: Any, ranks: Any, ended: Any = None) -> Row:
    """A ranking in this project's columns; rlhf.rows checks completions and ranks."""
    if isinstance(completions, list):
        completions = [own_completion(prompt, c) if isinstance(c, str) else c for c in completions]
    result = {**own_prompt(prompt), "completions": completions, "ranks": ranks}
    return result if ended is None else {**result, "ended": ended}


def listed(answer: str, rank: str = "", score: str = "") -> Callable[..., Row]:
    """A function for answers in a list of objects, each with a text and a rank (low is best) or a score (high)."""

    def ranking(prompt: Any, answers: Any) -> Row:
        answers = from_json(answers)
        if not isinstance(answers, list) or not all(isinstance(a, dict) and answer in a for a in answers):
            raise Unfit(f"the answers are {kind_of(answers)}, not a list of objects with {answer}")
        if answers and not any((rank or score) in a for a in answers):
            raise Unfit(f"no answer has {rank or score}")
        values = [number(a.get(rank or score)) for a in answers]
        return ranking_of(prompt, [a[answer] for a in answers], values, 1 if rank else -1)

    return ranking


def scored(prompt: Any, completions: Any, scores: Any) -> Row:
    """A ranking of a list of answers by a list of scores, high is best."""
    return ranking_of(prompt, completions, [number(s) for s in _list(scores, "the scores")], -1)


def ranked(prompt: Any, completions: Any, ranks: Any) -> Row:
    """A ranking of a list of answers by a list of ranks, low is best."""
    return ranking_of(prompt, completions, [number(r) for r in _list(ranks, "the ranks")], 1)


def ranking_of(prompt: Any, completions: Any, values: list[float | None], sign: int) -> Row:
    """A ranking by sign x values, low is best, of the answers that have a value."""
    if len(_list(completions, "the answers")) != len(values):
        raise Unfit(f"there are {len(completions)} answers and {len(values)} scores or ranks")
    known = [(c, sign * v) for c, v in zip(completions, values, strict=True) if v is not None and c is not None]
    pairs = [(text(c, "an answer"), v) for c, v in known]
    return {"prompt": asked(prompt, "the prompt"), "completions": [c for c, _ in pairs], "ranks": [v for _, v in pairs]}


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise Unfit(f"{name} are {kind_of(value)}, not a list")
    return value


# --- two answers ------------------------------------------------------------------------------------------------------


def better(prompt: Any, first: Any, second: Any, sign: float) -> Row:
    """A ranking of two answers. The first is better if `sign` is below 0, the second if it is above 0; 0 is a tie."""
    answers = [text(a, "an answer") for a in (first, second)]
    return {"prompt": asked(prompt, "the prompt"), "completions": answers, "ranks": [int(sign > 0), int(sign < 0)]}


def by_number(prompt: Any, first: Any, second: Any, best: Any) -> Row:
    """`best` is 0 or 1, the number of the better answer."""
    return better(prompt, first, second, 2 * _one_of(best, (0, 1), "the number of the better answer") - 1)


def by_label(prompt: Any, first: Any, second: Any, label: Any) -> Row:
    """`label` is 1 if the first answer is better, else 0."""
    return better(prompt, first, second, 1 - 2 * _one_of(label, (0, 1), "labels"))


def by_strength(prompt: Any, first: Any, second: Any, strength: Any) -> Row:
    """`strength` ranges from -3 (the first answer is much better) to 3 (the second is much better)."""
    return better(prompt, first, second, _number(strength, "the preference"))


def by_preference(prompt: Any, first: Any, second: Any, preference: Any, input: Any = None, context: Any = None) -> Row:
    """`preference` is 1 if the first answer is better, 2 if the second is, and 1.5 for a tie."""
    value = _number(preference, "preference")
    if not 1 <= value <= 2:
        raise Unfit(f"preference is {value:g}, not 1 or 2")
    return better(joined(prompt, input, context), first, second, value - 1.5)


def by_scores(prompt: Any, first: Any, second: Any, first_score: Any, second_score: Any) -> Row:
    """The answer with the higher score is better. WebGPT's question is an object with full_text."""
    if isinstance(prompt, dict):
        prompt = text(prompt.get("full_text"), "question.full_text")
    return better(prompt, first, second, _number(second_score, "a score") - _number(first_score, "a score"))


def summaries(info: Any, answers: Any, choice: Any) -> Row:
    """Two summaries of a post, and the number of the better one."""
    texts = [a.get("text") if isinstance(a, dict) else None for a in _list(answers, "summaries")]
    if len(texts) != 2:
        raise Unfit(f"there are {len(texts)} summaries, not 2")
    return {**by_number("", texts[0], texts[1], choice), "prompt": _post(info)}


def _post(info: Any) -> str:
    """The prompt of Stiennon et al. 2020 (arXiv 2009.01325), as plain text that a summary follows."""
    info = info if isinstance(info, dict) else {}
    if isinstance(info.get("post"), str):
        subreddit, title = (text(info.get(key), f"info.{key}") for key in ("subreddit", "title"))
        return f"SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {info['post']}\n\nTL;DR:"
    return f"Article:\n\n{text(info.get('article'), 'info.post or info.article')}\n\nTL;DR:\n\n"


def arena(first: Any, second: Any, winner: Any, turn: Any = None) -> Row:
    """Two conversations with the same questions; `winner` is model_a, model_b or a kind of tie.

    `turn` is the number of the reply that was judged: MT-bench has both replies in the rows of its first turn, too.
    """
    winners = {"model_a": -1, "model_b": 1, "tie": 0, "tie (bothbad)": 0, "both_bad": 0, "bothbad": 0}
    if not isinstance(winner, str) or winner not in winners:
        raise Unfit(f"winner is not one of {', '.join(winners)}")
    chats = [messages(first, "conversation_a"), messages(second, "conversation_b")]
    row = same_conversation([_up_to_turn(chat, turn) for chat in chats])
    bad = {"rating": False} if "bad" in winner else {}  # neither answer becomes a demonstration
    return {**row, **bad, "ranks": [int(winners[winner] > 0), int(winners[winner] < 0)]}


def _up_to_turn(chat: Messages, turn: Any) -> Messages:
    """A chat without the turns of the user, and their replies, after the one with this number."""
    asking = [i for i, message in enumerate(chat) if message["role"] == "user"]
    return chat[: asking[turn]] if isinstance(turn, int) and 0 < turn < len(asking) else chat


def arena_texts(prompt: Any, first: Any, second: Any, first_wins: Any, second_wins: Any, winner_tie: Any = None) -> Row:
    """The same as lists of texts, or as their JSON: the questions, and the answers of each model."""
    prompt, first, second = (from_json(value) for value in (prompt, first, second))
    prompt, first, second = ([v] if isinstance(v, str) else _list(v, "the turns") for v in (prompt, first, second))
    if not len(prompt) == len(first) == len(second):
        raise Unfit("prompt, response_a and response_b have different numbers of turns")
    if any(turn is None for turn in (*prompt, *first, *second)):
        raise Drop("empty completion")
    chats = [[{"user": q, "assistant": a} for q, a in zip(prompt, answers, strict=True)] for answers in (first, second)]
    wins = [_one_of(win, (0, 1), "winner_model_a and winner_model_b") for win in (first_wins, second_wins)]
    return arena(chats[0], chats[1], ["tie", "model_a", "model_b"][wins[0] + 2 * wins[1] if wins != [1, 1] else 0])


def _number(value: Any, name: str) -> float:
    if (result := number(value)) is None:
        raise Unfit(f"{name} is {kind_of(value)}, not a number")
    return result


def _one_of(value: Any, known: tuple[int, ...], name: str) -> int:
    """A whole number, also as true, false or text."""
    result = _number(int(value) if isinstance(value, bool) else value, name)
    if result not in known:
        raise Unfit(f"{name} is {result:g}, not one of {', '.join(map(str, known))}")
    return int(result)


# --- chosen and rejected ----------------------------------------------------------------------------------------------


def conversations(chosen: Any, rejected: Any) -> Row:
    """Two whole conversations, as messages or transcripts. The prompt is everything before the last reply."""
    chats = [transcript(chosen), transcript(rejected)]
    if None in chats:
        chats = [messages(chosen, "chosen"), messages(rejected, "rejected")]
        if not all(chat and chat[0]["role"] in ("user", "system") for chat in chats):
            raise Unfit("chosen and rejected do not both begin with the prompt")
    return {**same_conversation([chat or [] for chat in chats]), "ranks": [0, 1]}


def common_prefix(chosen: Any, rejected: Any) -> Row:
    """Two texts. The prompt is their common prefix, up to its last space or line break."""
    chosen, rejected = text(chosen, "chosen"), text(rejected, "rejected")
    if transcript(chosen) and transcript(rejected):
        raise Unfit("chosen and rejected are transcripts")
    shared = os.path.commonprefix([chosen, rejected])
    border = max(shared.rfind(" "), shared.rfind("\n"), 0)
    return {"prompt": shared[:border], "completions": [chosen[border:], rejected[border:]], "ranks": [0, 1]}


def same_conversation(chats: list[Messages]) -> Row:
    """{prompt, completions} of conversations that differ only in the last reply."""
    if any(not chat or chat[-1]["role"] != "assistant" for chat in chats):
        raise Drop("transcript that does not end with a reply")
    if any(chat[:-1] != chats[0][:-1] for chat in chats):
        raise Drop("transcripts of different conversations")
    replies = [chat[-1] for chat in chats]
    return {
        "prompt": chats[0][:-1],
        # a message with more than its content, such as tool calls or thoughts, is not replaced by its text
        "completions": [r["content"] if r.keys() <= {"role", "content", "weight"} else [r] for r in replies],
    }


def pair(prompt: Any, chosen: Any, rejected: Any, input: Any = None) -> Row:
    """A question, which the user asks, with one or several chosen answers and one or several rejected ones."""
    asks = asked(joined(prompt, input) if input and isinstance(prompt, str) else prompt, "the prompt")
    if not asks or asks[-1]["role"] == "assistant":
        raise Unfit("the chat before chosen and rejected ends with a reply")
    return {"prompt": asks, **_chosen_and_rejected(chosen, rejected)}


def own_pair(prompt: Any, chosen: Any, rejected: Any) -> Row:
    """The same in TRL's columns: strings stay plain text, unless an answer is a message."""
    answers = _chosen_and_rejected(chosen, rejected)
    if any(isinstance(answer, list) for answer in answers["completions"]) or isinstance(chosen, list):
        return {"prompt": asked(prompt, "prompt"), **answers}
    completions = [own_completion(prompt, answer) for answer in answers["completions"]]
    return {**own_prompt(prompt), "completions": completions, "ranks": answers["ranks"]}


def _chosen_and_rejected(chosen: Any, rejected: Any) -> Row:
    better, worse = _answers(chosen, "chosen"), _answers(rejected, "rejected")
    return {"completions": [*better, *worse], "ranks": [0] * len(better) + [1] * len(worse)}


def _answers(value: Any, name: str) -> list[Any]:
    """The answers in a column: a text, a message, a list of messages, or a list of texts."""
    if isinstance(value, list) and value and all(isinstance(answer, str) for answer in value):
        return list(value)
    answer = reply(value, name)
    if isinstance(answer, list) and any(message["role"] in ("user", "system") for message in answer):
        raise Unfit(f"{name} contains the prompt, but the other answer does not, or has another prompt")
    return [answer]


# --- single answers with a rating -------------------------------------------------------------------------------------


def labelled(prompt: Any, completion: Any, label: Any) -> Row:
    """An answer that is labelled as good or bad."""
    if isinstance(label, str) and label.lower() in ("true", "false"):
        label = label.lower() == "true"
    good = bool(_one_of(label, (0, 1), "the label"))
    return {**own_prompt(prompt), "completion": own_completion(prompt, completion), "rating": good}


def graded(question: Any, solution: Any, is_correct: Any) -> Row:
    """A solution of a problem, and whether it is correct."""
    good = bool(_one_of(is_correct, (0, 1), "is_correct"))
    return {"prompt": asked(question, "the question"), "completion": text(solution, "the solution"), "rating": good}


def rated(prompt: Any, completion: Any, rating: Any) -> Row:
    """An answer with a rating, high is best."""
    return {
        "prompt": asked(prompt, "prompt"),
        "completion": text(completion, "response"),
        "rating": _number(rating, "helpfulness"),
    }


def summary(info: Any, summarised: Any) -> Row:
    """A summary of a post with its overall rating."""
    summarised = summarised if isinstance(summarised, dict) else {}
    axes = summarised.get("axes") if isinstance(summarised.get("axes"), dict) else {}
    rating = _number(axes.get("overall"), "summary.axes.overall")
    return {"prompt": _post(info), "completion": text(summarised.get("text"), "summary.text"), "rating": rating}
