"""Replies in a chat: the text that follows the generation prompt, and where a reply lies in the rendered chat."""

from contextlib import suppress
from dataclasses import dataclass
from os.path import commonprefix

from transformers import PreTrainedTokenizerBase

from rlhf.rows import Text
from rlhf.tokens.chats import (
    CLOSE,
    OPEN,
    SECOND_THOUGHT,
    UNRENDERED_CALLS,
    Messages,
    RefusedChat,
    Tools,
    render_chat,
    thought_and_answer,
)

# placeholder for a reply's content, to find where the template puts it; only letters, which no template changes
_MARK = "replyXcontentXgoesXhere"


@dataclass(frozen=True)
class Completion:
    """A completion as text."""

    prompt: str  # of a chat with the generation prompt
    text: str  # what follows the prompt
    whole: str  # the chat as the template renders it; it may differ from prompt + text before and in the first reply

    @property
    def shift(self) -> int:
        """What is added to a position in `whole`, after the first reply, to get the position in prompt + text."""
        return len(self.prompt) + len(self.text) - len(self.whole)


def render_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: Text, tools: Tools = None, finished: bool = True
) -> Completion:
    """The completion as the model would write it after the prompt.

    That is what the template renders after the generation prompt. Where it renders the prompt differently when a reply
    follows, or leaves out a thought that the generation prompt begins, it is the reply's content and what the template
    puts after it. A reply that is not `finished` may end in its thought. Raises RefusedChat if a template omits or
    changes the completion or its thought.
    """
    messages: Messages = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    if isinstance(prompt, str):
        return _after_string(prompt, messages)
    chat, index = [*prompt, *messages], len(prompt)
    whole, before = render_chat(tokenizer, chat, tools=tools), render_chat(tokenizer, prompt, True, tools)
    content = messages[0].get("content") or ""
    if _has_two_thoughts(messages[0]):
        raise RefusedChat(f"thoughts in a column and in the content of the reply {content[:200]!r}", TWO_THOUGHTS)
    if not finished and _ends_in_thought(before, messages[0]):
        return Completion(before, _continued(before, content) + _ending(tokenizer, chat, index, tools), whole)
    text = _rendered(tokenizer, chat, index, whole, before, tools)
    if text is None or not _as_written(before, text, messages[0], len(messages) > 1):
        text = _written(before, messages[0])
        if text is None:
            raise _refused(messages[0])
        ending = _ending(tokenizer, chat, index, tools)
        if not whole.endswith(ending):
            raise _refused(messages[0])
        text += ending
    if len(messages) > 1 and messages[-1]["role"] == "assistant" and not _holds(text, messages[-1]):
        raise _refused(messages[-1])
    return Completion(before, text, whole)


def _after_string(prompt: str, messages: Messages) -> Completion:
    """A reply after a prompt that is a string: its content alone."""
    reply = messages[-1].get("content") or ""
    if not reply:
        raise RefusedChat("tool calls after a prompt that is a string", UNRENDERED_CALLS)
    thought, answer = thought_and_answer(messages[-1])
    if thought is not None and answer == reply:
        raise RefusedChat("a thought in its own column after a prompt that is a string", UNRENDERED_THOUGHT)
    return Completion(prompt, reply, prompt + reply)


def _rendered(
    tokenizer: PreTrainedTokenizerBase, chat: Messages, index: int, whole: str, before: str, tools: Tools
) -> str | None:
    """What the rendered chat `whole` has after the prompt; None if the reply is not found in it."""
    if whole.startswith(before):
        return whole[len(before) :]
    if _opens(before) and whole.startswith(before.rstrip()):
        return whole[len(before.rstrip()) :].lstrip()
    content = chat[index].get("content") or ""
    head, _ = _around(tokenizer, chat, index, False, tools) or (None, None)
    if head is not None and not content.strip() and whole.startswith(head):
        return whole[len(head) :]
    if not content.strip():
        return None
    up_to = head if head is not None and whole.startswith(head) else render_chat(tokenizer, chat[:index], tools=tools)
    text = content.strip()
    start = whole.find(text, len(up_to)) if whole.startswith(up_to) else whole.rfind(text)
    return whole[start:] if start >= 0 else None


# --- thoughts ---------------------------------------------------------------------------------------------------------

UNRENDERED_THOUGHT = "thought of a reply that the chat template omits"
TWO_THOUGHTS = "reply with thoughts in a column and in its content"


def _opens(before: str) -> bool:
    """Whether a generation prompt begins a thought, which the reply continues."""
    return before.rstrip().endswith(OPEN)


def _has_two_thoughts(reply: dict[str, object]) -> bool:
    thought, answer = thought_and_answer(reply)
    return thought is not None and answer == reply.get("content") and answer.lstrip().startswith(OPEN)


def _ends_in_thought(before: str, reply: dict[str, object]) -> bool:
    """Whether a truncated reply ends in its thought."""
    thought, content = thought_and_answer(reply)
    if thought is not None or CLOSE in content:
        return False
    return _opens(before) or (content.lstrip().startswith(OPEN) and not before.rstrip().endswith(CLOSE))


def _holds(text: str, reply: dict[str, object]) -> bool:
    """Whether a text contains the thought of a reply, and after it the rest of its content."""
    thought, answer = thought_and_answer(reply)
    start = text.find((thought or "").strip())
    return start >= 0 and text.find(answer.strip(), start + len((thought or "").strip())) >= 0


def _as_written(before: str, text: str, reply: dict[str, object], is_earlier: bool) -> bool:
    """Whether `text` is what the model would write after the prompt: the whole reply, with one thought, which is closed.

    A template may leave out the thought of an earlier reply.
    """
    thought, answer = thought_and_answer(reply)
    if SECOND_THOUGHT.match(before[before.rfind(OPEN) :] + text if _ends_thought(before) else text.lstrip()):
        return False
    if _opens(before):
        inside, close, rest = text.partition(CLOSE)
        return bool(close) and inside.strip() == (thought or "").strip() and answer.strip() in rest
    return _holds(text, reply) or (is_earlier and answer.strip() in text)


def _ends_thought(before: str) -> bool:
    return before.rstrip().endswith((OPEN, CLOSE)) and OPEN in before


def _written(before: str, reply: dict[str, object]) -> str | None:
    """The reply with its thought as the model would write it after the prompt; None if this is not known.

    A generation prompt with an empty thought has no place for another one.
    """
    thought, answer = thought_and_answer(reply)
    content = str(reply.get("content") or "")
    if reply.get("tool_calls") or (before.rstrip().endswith(CLOSE) and thought is not None):
        return None
    if thought is None and content.lstrip().startswith(OPEN):
        return None  # it is never closed
    if _opens(before):
        if thought is None or answer == content:
            content = f"{(thought or '').strip()}\n{CLOSE}\n\n{content}"
        return _continued(before, content)
    return content if thought is not None and answer != content else None


def _continued(before: str, content: str) -> str:
    """Content after a generation prompt, without the opening of a thought that the prompt already has."""
    if not _opens(before) or not content.lstrip().startswith(OPEN):
        return content
    rest = content.lstrip().removeprefix(OPEN)
    return rest.removeprefix(before[before.rfind(OPEN) + len(OPEN) :])


def _refused(reply: dict[str, object]) -> RefusedChat:
    content = str(reply.get("content") or "")[:200]
    if thought_and_answer(reply)[0] is not None:
        message = f"the tokenizer's chat template omits or changes the thought of the reply {content!r}"
        return RefusedChat(message, UNRENDERED_THOUGHT)
    message = f"the tokenizer's chat template changes the reply {content!r}"
    return RefusedChat(message, "reply that the chat template changes")


def _ending(tokenizer: PreTrainedTokenizerBase, chat: Messages, index: int, tools: Tools) -> str:
    """What the template puts after the content of a reply, with the turns that follow."""
    around = _around(tokenizer, chat, index, False, tools)
    if around is None:
        raise _refused(chat[index])
    return around[1]


# --- where a reply lies -----------------------------------------------------------------------------------------------


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
