"""Chats: messages, transcripts, tool calls, and trees of messages."""

import re
from typing import Any

from data.shapes import values
from data.shapes.values import Drop, Unfit, assistant, from_json, kind_of, text, user
from rlhf.rows import ROLES, Row


def chat(messages: Any) -> Row:
    """A chat as messages."""
    return {"messages": values.messages(messages, "the chat")}


def labelled(messages: Any, label: Any) -> Row:
    """A chat whose last reply is labelled as good or bad."""
    if not isinstance(label, bool):
        raise Unfit(f"the label is {kind_of(label)}, not true or false")
    said = chat(messages)["messages"]
    if not said or said[-1]["role"] != "assistant":
        raise Drop("chat that does not end with a reply")
    return {"prompt": said[:-1], "completion": [said[-1]], "rating": label}


def alternating(texts: Any) -> Row:
    """A chat as a list of texts, the user's first."""
    return {"messages": values.alternating(texts, "the chat")}


_GUANACO_TURN = re.compile(r"(?:^|\n*)### (Human|Assistant):")
_GLAIVE_TURN = re.compile(r"(?:^|\n+)(USER|ASSISTANT|FUNCTION RESPONSE):")


def guanaco(value: Any) -> Row:
    """A chat as a text, "### Human: ...### Assistant: ..."."""
    if not text(value, "text").startswith("### Human:"):
        raise Unfit("the text is not a transcript")
    return {"messages": values.turns(value, _GUANACO_TURN)}


def glaive(system: Any, value: Any) -> Row:
    """A chat as a text, "USER: ...\\n\\nASSISTANT: ... <|endoftext|>", after a text "SYSTEM: ..."."""
    if not text(value, "chat").lstrip().startswith("USER:"):
        raise Unfit("chat is not a transcript")
    said = values.turns(value.replace("<|endoftext|>", "").lstrip(), _GLAIVE_TURN)
    before = text(system, "system").removeprefix("SYSTEM:").strip()
    return {"messages": [*([{"role": "system", "content": before}] if before else []), *said]}


def calls(query: Any, listed: Any, answers: Any) -> Row:
    """A question whose answer is a list of tool calls, [{name, arguments}]."""
    answers, tools = from_json(answers), values.tools(listed)
    if not isinstance(answers, list) or not all(
        isinstance(a, dict) and isinstance(a.get("name"), str) for a in answers
    ):
        raise Unfit(f"answers is {kind_of(answers)}, not a list of calls with name and arguments")
    if not answers:
        raise Drop("empty completion")
    reply = {**assistant(""), "tool_calls": [{"type": "function", "function": call} for call in answers]}
    return {"prompt": [user(text(query, "query"))], "completion": [reply], "tools": tools}


# --- trees ------------------------------------------------------------------------------------------------------------


def tree(root: Any, _: Any = None) -> list[Row]:
    """A ranking for each set of assistant replies to the same conversation: {text, role, rank, replies}.

    A set with fewer than two ranks becomes a demonstration with its first reply.
    """
    if not isinstance(root, dict) or not isinstance(root.get("replies"), list):
        raise Unfit(f"prompt is {kind_of(root)}, not an object with text, role and replies")
    rows = []
    waiting = [(root, [_message(root)])]
    while waiting:
        node, path = waiting.pop()
        replies = node.get("replies") or []
        if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
            raise Unfit("replies is not a list of objects")
        replies = [reply for reply in replies if not reply.get("deleted")]
        waiting += [(reply, [*path, _message(reply)]) for reply in reversed(replies)]
        rows += _ranking(path, [reply for reply in replies if _message(reply)["role"] == "assistant"])
    return rows


def _ranking(path: values.Messages, replies: list[Row]) -> list[Row]:
    if not replies:
        return []
    ranked = [reply for reply in replies if values.number(reply.get("rank")) is not None]
    if len(ranked) < 2:
        return [{"prompt": path, "completion": replies[0]["text"]}]
    ranks = [values.number(reply["rank"]) for reply in ranked]
    return [{"prompt": path, "completions": [reply["text"] for reply in ranked], "ranks": ranks}]


def _message(node: Row) -> dict[str, Any]:
    role = ROLES.get(node["role"]) if isinstance(node.get("role"), str) else None
    if role is None:
        raise Unfit("a message of the tree has no role, or an unknown one")
    return {"role": role, "content": text(node.get("text"), "text")}


def tree_of_messages(nodes: list[Row]) -> tuple[Row | None, int]:
    """The tree of the rows {message_id, parent_id, text, role, rank}, and the number of rows that are not in it.

    The tree is None if its first message is missing.
    """
    by_id = {node["message_id"]: {**node, "replies": []} for node in nodes}
    roots = [node for node in by_id.values() if values.is_absent(node.get("parent_id"))]
    for node in by_id.values():
        parent = node.get("parent_id")
        if isinstance(parent, str) and parent in by_id:
            by_id[parent]["replies"].append(node)
    reached, waiting = 0, roots[:1]
    while waiting:
        node = waiting.pop()
        reached += 1
        waiting += node["replies"]
    return (roots[0] if roots else None), len(nodes) - reached
