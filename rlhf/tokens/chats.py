"""Chats as text: what the tokenizer's chat template renders, and where a reply lies in it."""

from contextlib import suppress
from os.path import commonprefix
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rlhf import InputError, first_line
from rlhf.rows import Text, plain_text

Messages = list[dict[str, Any]]
Tools = list[Any] | None  # JSON schemas of functions

# errors that templates raise, besides their own, for content or tool calls that they do not expect
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, AttributeError, LookupError)
# placeholder for a reply's content, to find where the template puts it; only letters, which no template changes
_MARK = "replyXcontentXgoesXhere"


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
    because the roles don't alternate, or if it omits tool calls.
    """
    shown, reason = repr(plain_text(messages)[:200]), "tool calls that the chat template does not render"
    calls = [message for message in messages if message.get("tool_calls")]
    try:
        text = _apply(tokenizer, messages, generation, tools)
    except _TEMPLATE_ERRORS as error:
        if not calls and all(message["role"] != "tool" for message in messages):
            reason = f"refused by the chat template: {first_line(error)[:100]}"
        raise RefusedChat(f"the tokenizer's chat template refuses {shown}: {error}", reason) from error
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
    text = tokenizer.apply_chat_template(shown, tools=tools, tokenize=False, add_generation_prompt=generation)
    return cast(str, text)


def render_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: Text, tools: Tools = None
) -> tuple[str, str]:
    """The text of prompt and completion, and the part of it that follows the prompt.

    If a chat template renders the prompt differently when a reply follows, the part begins with the reply itself.
    Raises RefusedChat if a template omits or changes the completion.
    """
    if isinstance(prompt, str):
        reply = completion if isinstance(completion, str) else completion[-1].get("content")
        if not reply:
            raise RefusedChat(
                "tool calls after a prompt that is a string", "tool calls that the chat template does not render"
            )
        return prompt + reply, reply
    messages = [
        *prompt,
        *([{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion),
    ]
    whole = render_chat(tokenizer, messages, tools=tools)
    up_to_reply = render_chat(tokenizer, prompt, True, tools)
    if whole.startswith(up_to_reply):
        return whole, whole[len(up_to_reply) :]
    content = messages[len(prompt)].get("content") or ""
    head, _ = _around(tokenizer, messages, len(prompt), False, tools) or (None, None)
    if head is not None and not content.strip() and whole.startswith(head):
        return whole, whole[len(head) :]
    before = head if head is not None and whole.startswith(head) else render_chat(tokenizer, prompt, tools=tools)
    # some templates omit the thoughts of a reply
    for text in filter(None, (content.strip(), content.rpartition("</think>")[2].strip())):
        start = whole.find(text, len(before)) if whole.startswith(before) else whole.rfind(text)
        if start >= 0:
            return whole, whole[start:]
    message = f"the tokenizer's chat template changes the reply {content[:200]!r}"
    raise RefusedChat(message, "reply that the chat template changes")


def reply_span(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    index: int,
    text: str,
    generation: bool = False,
    tools: Tools = None,
) -> tuple[int, int] | None:
    """The characters (start, end) of the reply `messages[index]` in the rendered chat `text`.

    The span begins after the generation prompt, or after the turn's header if the template gives an earlier reply
    another header. It ends with what the template puts after a reply. None if the reply can't be located exactly.
    """
    opened = closed = ""
    with suppress(RefusedChat):
        opened = render_chat(tokenizer, messages[:index], True, tools)
        closed = render_chat(tokenizer, messages[: index + 1], False, tools)
    start = len(opened) if opened and text.startswith(opened) else None
    if start is not None and start < len(closed) and text.startswith(closed):
        return start, len(closed)
    # the reply is rendered differently when other messages follow it
    around = _around(tokenizer, messages, index, generation, tools)
    alone = _around(tokenizer, messages[: index + 1], index, False, tools)
    if around is None or alone is None:
        return None
    (head, tail), (_, ending) = around, alone
    end = len(text) - len(tail)
    if not (text.startswith(head) and text.endswith(tail) and len(head) < end):
        return None
    if start is None or start >= end:
        start = len(head)
    return start, end + len(commonprefix([ending, tail]))


def _around(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, index: int, generation: bool, tools: Tools
) -> tuple[str, str] | None:
    """The rendered text before and after a message's content. None if the template refuses or changes the content."""
    marked = [*messages[:index], {"role": messages[index]["role"], "content": _MARK}, *messages[index + 1 :]]
    with suppress(RefusedChat):
        parts = render_chat(tokenizer, marked, generation, tools).split(_MARK)
        return (parts[0], parts[1]) if len(parts) == 2 else None
    return None
