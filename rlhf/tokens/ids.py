"""Prompts, completions and documents as token ids; chats are rendered by the tokenizer's chat template.

A special token of the tokenizer that a text contains is encoded as characters. If a text is `rendered`, it is the
special token.
"""

from collections.abc import Sequence
from itertools import repeat
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from rlhf.rows import Text
from rlhf.tokens.chats import Tools, render_chat
from rlhf.tokens.control_tokens import marked
from rlhf.tokens.encoding import encode, encode_continuation
from rlhf.tokens.replies import render_completion
from rlhf.tokens.tokenizers import beginning_ids

Value = TypeVar("Value")


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Text],
    tools: Sequence[Tools] | None = None,
    rendered: Sequence[bool] | None = None,
) -> list[list[int]]:
    """The token ids of each prompt; a chat ends with the template's generation prompt.

    `tools` are the functions that the model of each chat can call. Raises RefusedChat if the template refuses a chat.
    """
    tools = tools or [None] * len(prompts)
    prompts, tools = _as_text(tokenizer, prompts, rendered), _as_text(tokenizer, tools, rendered)
    pairs = zip(prompts, tools, strict=True)
    texts = [prompt if isinstance(prompt, str) else render_chat(tokenizer, prompt, True, its) for prompt, its in pairs]
    return _with_beginning(tokenizer, texts, prompts)


def completion_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Text],
    completions: Sequence[Text],
    finished: Sequence[bool] | None = None,
    stop_ids: Sequence[int] = (),
    tools: Sequence[Tools] | None = None,
    rendered: Sequence[bool] | None = None,
) -> list[list[int]]:
    """The token ids of each completion, which follow those of `prompt_ids`, stop token included.

    The stop token is the tokenizer's eos or one of `stop_ids`; a completion that is not `finished` has none. Prompt and
    completion are tokenised together. If the result does not begin with the prompt's ids (BPE merges tokens across the
    border), the completion is tokenised alone. So training sees the same prompt ids as sampling. Raises RefusedChat if
    a chat template refuses, omits or changes the completion.
    """
    finished, tools = finished or [True] * len(prompts), tools or [None] * len(prompts)
    columns = [_as_text(tokenizer, column, rendered) for column in (prompts, completions, tools)]
    chats = [render_completion(tokenizer, *row) for row in zip(*columns, finished, strict=True)]
    before_ids = _with_beginning(tokenizer, [chat.prompt for chat in chats], prompts)
    whole_ids = _with_beginning(tokenizer, [chat.prompt + chat.text for chat in chats], prompts)
    result = []
    for before, ids, chat in zip(before_ids, whole_ids, chats, strict=True):
        follows = ids[: len(before)] == before
        ids = ids[len(before) :] if follows else encode_continuation(tokenizer, chat.text)
        result.append(_up_to_stop(ids, tokenizer, stop_ids))
    return [ids if stop else ids[:-1] for ids, stop in zip(result, finished, strict=True)]


def text_ids(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    tools: Sequence[Tools] | None = None,
    rendered: Sequence[bool] | None = None,
) -> list[list[int]]:
    """The token ids of each document, ending with one eos. Raises RefusedChat if a chat template refuses a chat."""
    tools = tools or [None] * len(texts)
    texts, tools = _as_text(tokenizer, texts, rendered), _as_text(tokenizer, tools, rendered)
    pairs = zip(texts, tools, strict=True)
    plain = [text if isinstance(text, str) else render_chat(tokenizer, text, tools=its) for text, its in pairs]
    eos = tokenizer.eos_token_id
    return [ids if ids[-1:] == [eos] else [*ids, eos] for ids in _with_beginning(tokenizer, plain, texts)]


def plain_text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[list[list[int]], bool]:
    """The ids of texts without special tokens around them, and whether control tokens in them are encoded as text.

    Raises RefusedChat if the tokenizer can't encode those.
    """
    as_text = _as_text(tokenizer, texts, None)
    return encode(tokenizer, as_text), list(texts) != as_text


def _as_text(
    tokenizer: PreTrainedTokenizerBase, values: Sequence[Value], rendered: Sequence[bool] | None
) -> list[Value]:
    """The values with marks in place of control tokens, but for those that are rendered."""
    pairs = zip(values, rendered or repeat(False), strict=False)
    return [value if is_rendered else marked(tokenizer, value) for value, is_rendered in pairs]


def _with_beginning(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], sources: Sequence[Text]
) -> list[list[int]]:
    """The ids of texts.

    If the source is a string, they begin with the tokenizer's bos, once; a chat template adds its own.
    """
    beginning = beginning_ids(tokenizer)
    rows = zip(encode(tokenizer, texts), sources, strict=True)
    return [
        beginning + ids if isinstance(source, str) and ids[: len(beginning)] != beginning else ids
        for ids, source in rows
    ]


def _up_to_stop(ids: list[int], tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> list[int]:
    """The ids up to the stop token that ends the last turn. If there is none, eos is appended."""
    count = count_to_stop(ids, tokenizer, stop_ids)
    return [*ids, tokenizer.eos_token_id] if count is None else ids[:count]


def count_to_stop(ids: list[int], tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> int | None:
    """The number of ids up to the stop token that ends the last turn, itself included; None if there is none.

    A chat template may add tokens after it, such as a line break or a second stop token. Text that follows a stop token
    belongs to the reply.
    """
    stops = [i for i, token in enumerate(ids) if token in {tokenizer.eos_token_id, *stop_ids}]
    end = len(ids)
    while stops and not str(tokenizer.decode(ids[stops[-1] + 1 : end], skip_special_tokens=True)).strip():
        end = stops.pop()
    return end + 1 if end < len(ids) else None
