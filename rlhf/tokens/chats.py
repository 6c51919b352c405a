"""Chats as text: what the tokenizer's chat template renders."""

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rlhf import InputError, first_line
from rlhf.rows import plain_text
from rlhf.tokens.control_tokens import without_marks

Messages = list[dict[str, Any]]
Tools = list[Any] | None  # JSON schemas of functions

# errors that templates raise, besides their own, for content or tool calls that they do not expect
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, AttributeError, LookupError)
_PROBE = "textXofXaXmessage"  # only letters, which no template changes
UNRENDERED_CALLS = "tool calls that the chat template does not render"
READ_TOKENS = "control tokens that the chat template reads"
# a thought, in the form of Qwen 3 and DeepSeek-R1; other forms are only known to the templates that render them
OPEN, CLOSE = "<think>", "</think>"
SECOND_THOUGHT = re.compile(rf"{OPEN}\s*{CLOSE}\s*{OPEN}")  # after an empty one
THOUGHT_COLUMNS = ("reasoning_content", "thinking", "reasoning")  # transformers' names


class RefusedChat(InputError):
    """A chat that the tokenizer's chat template does not render as it is; `reason` is why its row is dropped."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, generation: bool = False, tools: Tools = None
) -> str:
    """Chat messages as text, rendered by the tokenizer's chat template, which transformers runs in a sandbox.

    With `generation` the text ends with the generation prompt. Raises RefusedChat if the template fails, for instance
    because the roles don't alternate, if it omits tool calls, or if it reads the control tokens of a message.
    """
    shown, reason = repr(plain_text(without_marks(tokenizer, messages))[:200]), UNRENDERED_CALLS
    calls = [message for message in messages if message.get("tool_calls")]
    try:
        text = _apply(tokenizer, messages, generation, tools)
        written, written_tools = without_marks(tokenizer, messages), without_marks(tokenizer, tools)
        changed = written is not messages or written_tools is not tools
        as_written = _apply(tokenizer, written, generation, written_tools) if changed else text
    except _TEMPLATE_ERRORS as error:
        if not calls and all(message["role"] != "tool" for message in messages):
            reason = f"refused by the chat template: {first_line(error)[:100]}"
        raise RefusedChat(f"the tokenizer's chat template refuses {shown}: {error}", reason) from error
    if changed and without_marks(tokenizer, text) != as_written:
        raise RefusedChat(f"the tokenizer's chat template reads the control tokens of {shown}", READ_TOKENS)
    without, other = [{key: m[key] for key in m if key != "tool_calls"} for m in messages], ""
    if calls:
        with suppress(*_TEMPLATE_ERRORS):
            other = _apply(tokenizer, without, generation, tools)
    if text == other:
        raise RefusedChat(f"the tokenizer's chat template omits the tool calls of {shown}", reason)
    return text


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Messages, generation: bool, tools: Tools) -> str:
    # a template may print every column of a message
    shown = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
    form = _form(tokenizer, str(tokenizer.chat_template))
    shown = [form.of(message) for message in shown]
    text = tokenizer.apply_chat_template(shown, tools=tools, tokenize=False, add_generation_prompt=generation)
    return cast(str, text)


# --- the form of a message that a template reads ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Form:
    """What a chat template expects of a message."""

    in_parts: bool = False  # content as a list of parts: the templates of models that read pictures
    thought_apart: bool = False  # the thought of a reply in a column of its own, and not in its content

    def of(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message in this form."""
        if self.thought_apart and message["role"] == "assistant":
            thought, answer = thought_and_answer(message)
            if thought is not None:
                message = {**message, "reasoning_content": thought, "content": answer.lstrip("\n")}
        if self.in_parts and isinstance(message.get("content"), str):
            message = {**message, "content": [{"type": "text", "text": message["content"]}]}
        return message


@lru_cache(maxsize=8)
def _form(tokenizer: PreTrainedTokenizerBase, template: str) -> _Form:
    """The form that the tokenizer's chat template, which is the key of the cache, expects."""
    question, reply = {"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}
    thought = {"role": "assistant", "content": f"{OPEN}\n{_PROBE}\n{CLOSE}\n\n{_PROBE}"}

    def rendered(form: _Form, *messages: dict[str, Any]) -> str:
        with suppress(*_TEMPLATE_ERRORS):
            text = tokenizer.apply_chat_template([form.of(message) for message in messages], tokenize=False)
            return cast(str, text)
        return ""

    in_parts = _PROBE not in rendered(_Form(), question, reply) and _PROBE in rendered(_Form(True), question, reply)
    return _Form(in_parts, bool(SECOND_THOUGHT.search(rendered(_Form(in_parts), question, thought))))


def thought_and_answer(message: dict[str, Any]) -> tuple[str | None, str]:
    """The thought of a reply, None if it has none, and the rest of its content.

    A thought is in a column of its own, or at the start of the content, in <think>...</think> or before </think>.
    """
    content = message.get("content") or ""
    for column in THOUGHT_COLUMNS:
        if isinstance(thought := message.get(column), str) and thought.strip():
            return thought, content
    before, close, answer = content.partition(CLOSE)
    opened = before.lstrip().startswith(OPEN)
    if close and (opened or OPEN not in before):
        return before.lstrip().removeprefix(OPEN), answer
    return None, content
