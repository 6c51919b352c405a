"""Parses the values in columns of public data sets: texts, chats, replies, transcripts and scores.

Each function returns a value in this project's form. It raises `Unfit` for a value of another type, so that the row may
have another shape, and `Drop` for a row that can't be used.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from rlhf import InputError
from rlhf.rows import normalised

Messages = list[dict[str, Any]]
Reply = str | Messages


class Unfit(Exception):
    """The values of a row do not fit a shape; the message says which one."""


class Drop(Exception):
    """A row can't be used; the message is the reason that is counted."""


def is_absent(value: Any) -> bool:
    """Whether a value is null. Tables with merged columns have null, and pandas NaN, where a row has no such column."""
    return value is None or (isinstance(value, float) and value != value)


def text(value: Any, name: str) -> str:
    """The value, if it is a string."""
    if not isinstance(value, str):
        raise Unfit(f"{name} is {kind_of(value)}, not text")
    return value


def kind_of(value: Any) -> str:
    """The type of a value in the words of JSON."""
    kinds = {str: "text", bool: "a boolean", dict: "an object", list: "a list", type(None): "null"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def number(value: Any) -> float | None:
    """A number, also if it is written as text; None if it is absent or no number (a rating may be "N/A")."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if abs(result) < 1e9 else None


def from_json(value: Any) -> Any:
    """The list or object that a JSON text holds; any other value unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def texts_in(value: Any) -> Iterator[str]:
    """All strings in a value, also those in lists and objects."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | dict):
            waiting += value.values() if isinstance(value, dict) else value


# --- chats ------------------------------------------------------------------------------------------------------------


def user(content: str) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, Any]:
    """A message of the assistant."""
    return {"role": "assistant", "content": content}


def messages(value: Any, name: str) -> Messages:
    """The messages of a chat, given as a list or as its JSON text, see `rlhf.rows.normalised`.

    Turns may also be {"human", "assistant"}, {"user", "assistant"}, {"input", "output"} or {"role", "text"}.
    """
    turns = from_json(value)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Unfit(f"{name} is {kind_of(value)}, not a list of messages")
    turns = [message for turn in turns for message in _messages_of(turn)]
    try:
        result, fault = normalised(turns)
    except InputError as error:
        raise Unfit(f"{name}: {error}") from error
    if fault:
        raise Drop(fault)
    return result


def _messages_of(turn: dict[str, Any]) -> list[dict[str, Any]]:
    for question, answer in (("human", "assistant"), ("user", "assistant"), ("input", "output")):
        if isinstance(turn.get(question), str) and isinstance(turn.get(answer), str):
            return [user(turn[question]), assistant(turn[answer])]
    if isinstance(turn.get("text"), str) and not {"content", "value"} & turn.keys():
        turn = {**turn, "content": turn["text"]}
    if isinstance(turn.get("loss"), bool) and turn.get("weight") is None:  # THUDM/AgentInstruct
        turn = {**turn, "weight": int(turn["loss"])}
    return [turn]


def alternating(value: Any, name: str) -> Messages:
    """The messages of a list of strings, the user's first."""
    if not isinstance(value, list) or not value or not all(isinstance(turn, str) for turn in value):
        raise Unfit(f"{name} is not a list of texts")
    return [(user, assistant)[i % 2](turn) for i, turn in enumerate(value)]


def asked(value: Any, name: str) -> Messages:
    """The messages of a prompt: a chat, a transcript, or a text, which the user says."""
    if isinstance(value, str):
        return transcript_prompt(value) or steerlm(value) or [user(value)]
    return messages(value, name)


def history(value: Any) -> Messages:
    """The messages of earlier turns: pairs of the user's text and the reply, or a chat."""
    if isinstance(value, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in value):
        return [message for q, a in value for message in (user(text(q, "history")), assistant(text(a, "history")))]
    return messages(value, "history")


def reply(value: Any, name: str) -> Reply:
    """A reply: a text, a message, or a list of messages."""
    if isinstance(value, str):
        return value
    return messages([value] if isinstance(value, dict) else value, name)


def tools(value: Any) -> list[Any] | None:
    """The tools of a chat, a list or its JSON text, each in the form that chat templates take; None if empty."""
    listed = from_json(value)
    if isinstance(listed, str) and not listed.strip():
        return None
    if not isinstance(listed, list):
        raise Unfit(f"tools is {kind_of(value)}, not a list or the JSON text of one")
    is_bare = [isinstance(tool, dict) and "name" in tool and "function" not in tool for tool in listed]
    return [{"type": "function", "function": t} if bare else t for t, bare in zip(listed, is_bare, strict=True)] or None


# --- transcripts ------------------------------------------------------------------------------------------------------

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_STEERLM_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n?")
_ROLES = {"human": "user", "user": "user", "assistant": "assistant", "function response": "tool"}


def turns(value: str, pattern: re.Pattern[str]) -> Messages:
    """The messages of a transcript. `pattern` matches the beginning of a turn; its group is the speaker."""
    _, *parts = pattern.split(value)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _ROLES[speaker.lower()], "content": said.strip()} for speaker, said in pairs]


def transcript(value: Any) -> Messages | None:
    """The messages of "\\n\\nHuman: ...\\n\\nAssistant: ..." (Anthropic HH); None for another text."""
    if not isinstance(value, str) or not _TURN.match(value.lstrip()) or "\n\nAssistant:" not in value:
        return None
    return turns(value.lstrip(), _TURN)


def transcript_prompt(value: Any) -> Messages | None:
    """The messages of a transcript that ends where the next reply begins; None for another text."""
    found = transcript(value) if isinstance(value, str) and value.startswith("\n\nHuman:") else None
    return found[:-1] if found and found[-1] == assistant("") else None


def steerlm(value: str) -> Messages | None:
    """The messages of a prompt in NVIDIA's format, with "<extra_id_1>Assistant" between turns; None otherwise."""
    if not _STEERLM_TURN.search(value):
        return None
    return turns(value if _STEERLM_TURN.match(value) else f"<extra_id_1>User\n{value}", _STEERLM_TURN)
