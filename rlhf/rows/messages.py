"""Chat messages: the forms that they have in public data sets, and the one that they have here."""

import json
from typing import Any

from rlhf import InputError

Text = str | list[dict[str, Any]]  # a string, or chat messages
_NAMES_OF_ROLES = {
    "user": "user human prompter instruction",
    "assistant": "assistant gpt bot model chatgpt bing bard function_call",
    "system": "system developer",
    "tool": "tool function observation ipython function_response",
}
ROLES = {name: role for role, names in _NAMES_OF_ROLES.items() for name in names.split()}
# columns of a message that chat templates read, and the weight of a reply; others, such as a time stamp, are removed
MESSAGE_COLUMNS = ("tool_calls", "tool_call_id", "name", "reasoning_content", "thinking", "reasoning", "weight")


def is_message(value: Any) -> bool:
    """Whether a value has the columns of a chat message, in any form that `normalised` accepts."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("role", value.get("from")), str)
        and bool({"content", "value", "tool_calls", "function_call"} & value.keys())
    )


def normalised(messages: list[Any]) -> tuple[list[dict[str, Any]], str]:
    """Chat messages as [{"role", "content", ...}], and the reason to drop them, or "".

    Roles of other data sets become user, assistant, system or tool, see ROLES; ShareGPT's `from` and `value` become
    `role` and `content`. Content in parts, [{"type": "text", "text"}], is joined; with a picture it is a reason to
    drop. Null content beside `tool_calls` becomes "". OpenAI's older `function_call` becomes one of `tool_calls`, which
    may also be the JSON text of a list. An empty system message and null columns are removed. Raises InputError, without
    place, for anything else.
    """
    result, fault = [], ""
    for message in messages:
        if not is_message(message):
            raise InputError("a message is an object with role and content")
        name = message.get("role", message.get("from"))
        if (role := ROLES.get(name.lower())) is None:
            raise InputError(f"a message has the unknown role {name[:40]!r}; roles are {', '.join(ROLES)}")
        content, part_fault = _content(message)
        fault = fault or part_fault
        if role == "system" and not content.strip():
            continue
        kept = {key: message[key] for key in MESSAGE_COLUMNS if message.get(key) is not None}
        if "weight" in kept and (kept["weight"] not in (0, 1) or isinstance(kept["weight"], bool)):
            raise InputError(f"a message has the weight {kept['weight']!r}; it must be 0 or 1")
        if role != "assistant":
            kept.pop("weight", None)
        elif "weight" in kept:
            kept["weight"] = int(kept["weight"])
        if not isinstance(kept.get("reasoning"), str):  # elsewhere the settings of a request
            kept.pop("reasoning", None)
        if calls := _calls(message):
            kept["tool_calls"] = calls
        else:
            kept.pop("tool_calls", None)
        result.append({"role": role, "content": content, **kept})
    return result, fault


def plain_text(text: Text) -> str:
    """A text as a readable string: chat messages become lines of `role: content`."""
    return text if isinstance(text, str) else "\n".join(f"{m['role']}: {m['content']}" for m in text)


def without_weights(text: Text) -> Text:
    """A text without the weights of its replies, which only demonstrations have."""
    if isinstance(text, list):
        return [{key: value for key, value in message.items() if key != "weight"} for message in text]
    return text


def _content(message: dict[str, Any]) -> tuple[str, str]:
    """The content of a message as a string, and the reason to drop the message, or ""."""
    content = message.get("content", message.get("value"))
    if content is None:
        content = ""
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, str | dict) for part in parts):
        raise InputError(f"a message has {type(content).__name__} as its content; it must be text")
    texts = [part if isinstance(part, str) else part.get("text") for part in parts]
    kinds = {str(part.get("type", "text")) for part in parts if isinstance(part, dict)}
    if any("image" in kind for kind in kinds):
        return "", "message with a picture"
    if not kinds <= {"text", "input_text", "output_text"} or not all(isinstance(text, str | None) for text in texts):
        return "", "message with a part that is not text"
    return "".join(text or "" for text in texts), ""


def _calls(message: dict[str, Any]) -> list[Any]:
    """The tool calls of a message."""
    calls = message.get("tool_calls")
    if isinstance(calls, str):
        try:
            calls = json.loads(calls) if calls.strip() else []
        except (ValueError, RecursionError) as error:
            raise InputError("a message has text that is no JSON as its tool_calls; it must be a list") from error
    if not isinstance(calls, list | None) or not all(isinstance(call, dict) for call in calls or ()):
        raise InputError("a message has tool_calls that are not a list of objects")
    if not calls and message.get("function_call"):
        calls = [{"type": "function", "function": message["function_call"]}]
    result: list[Any] = _without_null(calls or [])
    return result


def _without_null(value: Any) -> Any:
    """Lists and objects without null; tables with merged columns have null for every argument of another tool."""
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value] if isinstance(value, list) else value
