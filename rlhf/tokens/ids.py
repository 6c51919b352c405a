"""Prompts, completions and documents as token ids; chats are rendered by the tokenizer's chat template."""

import copy
from collections.abc import Sequence
from functools import lru_cache

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.rows import Text
from rlhf.tokens.chats import Tools, render_chat, render_completion


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Text], tools: Sequence[Tools] | None = None
) -> list[list[int]]:
    """The token ids of each prompt; a chat ends with the template's generation prompt.

    `tools` are the functions that the model of each chat can call. Raises RefusedChat if the template refuses a chat.
    """
    pairs = zip(prompts, tools or [None] * len(prompts), strict=True)
    texts = [prompt if isinstance(prompt, str) else render_chat(tokenizer, prompt, True, its) for prompt, its in pairs]
    return _with_beginning(tokenizer, texts, prompts)


def completion_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Text],
    completions: Sequence[Text],
    finished: Sequence[bool] | None = None,
    stop_ids: Sequence[int] = (),
    tools: Sequence[Tools] | None = None,
) -> list[list[int]]:
    """The token ids of each completion, which follow those of `prompt_ids`, stop token included.

    The stop token is the tokenizer's eos or one of `stop_ids`; a completion that is not `finished` has none. Prompt and
    completion are tokenised together. If the result does not begin with the prompt's ids (BPE merges tokens across the
    border, or the chat template adds text before a reply), the completion is tokenised alone. So training sees the same
    prompt ids as sampling. Raises RefusedChat if a chat template refuses, omits or changes the completion.
    """
    tools = tools or [None] * len(prompts)
    rows = zip(prompts, completions, tools, strict=True)
    whole_texts, replies = (
        zip(*(render_completion(tokenizer, *row) for row in rows), strict=True) if prompts else ((), ())
    )
    result = []
    whole_ids = _with_beginning(tokenizer, whole_texts, prompts)
    for before, ids, text in zip(prompt_ids(tokenizer, prompts, tools), whole_ids, replies, strict=True):
        follows = ids[: len(before)] == before
        ids = ids[len(before) :] if follows else _encode(tokenizer, [text])[0]
        result.append(_up_to_stop(ids, tokenizer, stop_ids))
    return [ids if stop else ids[:-1] for ids, stop in zip(result, finished or [True] * len(result), strict=True)]


def text_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], tools: Sequence[Tools] | None = None
) -> list[list[int]]:
    """The token ids of each document, ending with one eos. Raises RefusedChat if a chat template refuses a chat."""
    pairs = zip(texts, tools or [None] * len(texts), strict=True)
    plain = [text if isinstance(text, str) else render_chat(tokenizer, text, tools=its) for text, its in pairs]
    eos = tokenizer.eos_token_id
    return [ids if ids[-1:] == [eos] else [*ids, eos] for ids in _with_beginning(tokenizer, plain, texts)]


def _with_beginning(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], sources: Sequence[Text]
) -> list[list[int]]:
    """The ids of texts.

    If the source is a string, they begin with the tokenizer's bos; a chat template adds its own.
    """
    beginning = _beginning(tokenizer)
    rows = zip(_encode(tokenizer, texts), sources, strict=True)
    return [beginning + ids if isinstance(source, str) else ids for ids, source in rows]


@lru_cache(maxsize=8)
def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts before a text: bos for Llama, [CLS] for BERT, none for GPT-2."""
    plain, special = (tokenizer("a", add_special_tokens=flag).input_ids for flag in (False, True))
    start = next((i for i in range(len(special)) if special[i : i + len(plain)] == plain), 0)
    return special[:start]


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts without special tokens, a thousand texts at a time to bound memory."""
    parts = (texts[start : start + 1000] for start in range(0, len(texts), 1000))
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return [ids for part in parts for ids in tokenizer(part, add_special_tokens=False).input_ids]
    # the same ids as from transformers, without computing offsets, which takes half of the time
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    encodings = (backend.encode_batch_fast(part, add_special_tokens=False) for part in parts)
    return [encoding.ids for part in encodings for encoding in part]


def ids_with_offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """The ids of a text without special tokens, and the characters (start, end) that each token covers.

    Both are empty for a tokenizer without a fast implementation, which knows no offsets.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return [], []
    encoding = _untrimmed(tokenizer).encode(text, add_special_tokens=False)
    return encoding.ids, encoding.offsets


@lru_cache(maxsize=2)
def _untrimmed(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy without the post-processor, which may leave out the space before a word from a token's offsets."""
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.post_processor = None
    backend.no_truncation()
    backend.no_padding()
    return backend


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
