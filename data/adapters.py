"""Converts rows of public data sets to rows of this project (see rlhf/rows.py).

The format of a row is recognised by its columns:

    a string                                         a user's message: a prompt
    {instruction, input, output, history}            Alpaca: a demonstration; if output is a list, best first, a ranking
    {instruction, context, response}                 Dolly: the same
    {instruction, instances: [{input, output}]}      Self-Instruct: a demonstration for each instance
    {messages} or {conversations: [{from, value}]}   a chat: its last reply is the completion; as a prompt it may end
                                                     with a user's message
    {chosen, rejected}                               two whole transcripts, as text (Anthropic HH) or messages: the
                                                     shared messages before the last reply are the prompt

A ranking in a source of demonstrations becomes a demonstration with the best completion. Other rows are returned
unchanged; rlhf.rows checks them.
"""

import os.path
import re
from typing import Any

from rlhf import InputError
from rlhf.rows import Row, Tally

Messages = list[dict[str, str]]
# columns that describe an answer: they are dropped when a prompt is built from other columns
ANSWERS = ("completion", "completions", "ranks", "ended", "chosen", "rejected")


def adapt(raw: Any, kind: str, tally: Tally, where: str = "row") -> list[Row]:
    """The rows of `kind` for a raw row; none if its content is unusable, which `tally` counts.

    Raises InputError, which begins with `where`, if a column has the wrong type.
    """
    try:
        return _adapted(raw, kind, tally)
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        columns = ", ".join(raw) if isinstance(raw, dict) else type(raw).__name__
        raise InputError(
            f"{where}: a column ({columns}) has a value of an unexpected type; see data/README.md"
        ) from error


def _adapted(raw: Any, kind: str, tally: Tally) -> list[Row]:
    if isinstance(raw, str):
        raw = {"prompt": [_user(raw)]} if kind != "text" else {"text": raw}
    if not isinstance(raw, dict):
        return [raw]  # rlhf.rows raises an error for it
    if kind == "text":
        return [_chat(raw)]
    if "instruction" in raw:
        rows = _from_instruction(raw)
    elif {"messages", "conversations"} & raw.keys() and "prompt" not in raw:
        rows = _from_chat(_chat(raw), kind, tally)
    elif {"chosen", "rejected"} <= raw.keys():
        rows = _from_pair(raw, tally)
    else:
        rows = [raw]
    return [_best(row) for row in rows] if kind == "demonstrations" else rows


def _best(row: Row) -> Row:
    """A ranking as a demonstration with its best completion; other rows unchanged."""
    if "chosen" in row:
        return {**_without(row, "chosen", "rejected"), "completion": row["chosen"]}
    if not {"completions", "ranks"} <= row.keys() or len(row["completions"]) != len(row["ranks"]):
        return row
    best = row["ranks"].index(min(row["ranks"]))
    return {**_without(row, "completions", "ranks", "ended"), "completion": row["completions"][best]}


def _without(row: Row, *columns: str) -> Row:
    return {column: value for column, value in row.items() if column not in columns}


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


# --- Alpaca and Self-Instruct -----------------------------------------------------------------------------------------


def _from_instruction(raw: Row) -> list[Row]:
    others = _without(raw, "instruction", "input", "output", "history", "instances", "context", "response", *ANSWERS)
    before = [m for q, a in raw.get("history") or [] for m in (_user(q), {"role": "assistant", "content": a})]
    rows = []
    for instance in raw.get("instances") or [raw]:
        context = instance.get("input") or instance.get("context")
        prompt = [*before, _user("\n\n".join(part for part in (raw["instruction"], context) if part))]
        output = instance.get("output", instance.get("response"))
        if not {"output", "response"} & instance.keys():
            rows.append({**others, "prompt": prompt})  # rlhf.rows raises an error for the missing completion
        elif isinstance(output, list):
            rows.append({**others, "prompt": prompt, "completions": output, "ranks": list(range(len(output)))})
        else:
            rows.append({**others, "prompt": prompt, "completion": output})
    return rows


# --- chats ------------------------------------------------------------------------------------------------------------

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"}


def _chat(raw: Row) -> Row:
    """ShareGPT's {conversations: [{from, value}]} as {messages: [{role, content}]}; other rows unchanged."""
    if "conversations" not in raw:
        return raw
    turns = [
        {"role": _ROLES.get(turn.get("from"), turn.get("from")), "content": turn.get("value")}
        for turn in raw["conversations"]
    ]
    return {**_without(raw, "conversations"), "messages": turns}


def _from_chat(raw: Row, kind: str, tally: Tally) -> list[Row]:
    messages, others = raw["messages"], _without(raw, "messages", *ANSWERS)
    last = messages[-1].get("role") if messages else None
    if kind == "prompts" and last == "user":
        return [{**others, "prompt": messages}]
    if last != "assistant":
        tally.dropped["chat that does not end with a reply"] += 1
        return []
    return [{**others, "prompt": messages[:-1], "completion": [messages[-1]]}]


# --- pairs of transcripts ---------------------------------------------------------------------------------------------

_TURN = re.compile(r"\n\n(Human|Assistant):")


def _from_pair(raw: Row, tally: Tally) -> list[Row]:
    chosen, rejected = raw["chosen"], raw["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        if "prompt" in raw:
            return [raw]
        if not (_TURN.match(chosen) and _TURN.match(rejected)):
            return _from_common_prefix(chosen, rejected, raw)
        chosen, rejected = _transcript(chosen), _transcript(rejected)
    if not all(isinstance(m, list) and len(m) > 1 and isinstance(m[0], dict) for m in (chosen, rejected)):
        return [raw]
    if chosen[-1].get("role") != "assistant" or rejected[-1].get("role") != "assistant":
        tally.dropped["transcript that does not end with a reply"] += 1
        return []
    if chosen[:-1] != rejected[:-1]:
        tally.dropped["transcripts of different conversations"] += 1
        return []
    others = _without(raw, "prompt", "chosen", "rejected")
    replies = [chosen[-1]["content"], rejected[-1]["content"]]
    return [{**others, "prompt": chosen[:-1], "completions": replies, "ranks": [0, 1]}]


def _transcript(text: str) -> Messages:
    """The messages of "\\n\\nHuman: ...\\n\\nAssistant: ..."."""
    _, *turns = _TURN.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[role], "content": text.strip()} for role, text in zip(turns[::2], turns[1::2], strict=True)]


def _from_common_prefix(chosen: str, rejected: str, raw: Row) -> list[Row]:
    """A comparison whose prompt is the common prefix of both texts, up to its last space or line break."""
    shared = os.path.commonprefix([chosen, rejected])
    border = max(shared.rfind(" "), shared.rfind("\n"), 0)
    others = _without(raw, "chosen", "rejected")
    return [{**others, "prompt": shared[:border], "completions": [chosen[border:], rejected[border:]], "ranks": [0, 1]}]
