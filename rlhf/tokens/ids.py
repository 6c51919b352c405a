"""Prompts, completions and documents as token ids; chats are rendered by the tokenizer's chat template."""

from collections.abc import Sequence
from functools import lru_cache
from typing import cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf import InputError
from rlhf.rows import Text, plain_text


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Text]) -> list[list[int]]:
    """The token ids of each prompt; a chat ends with the template's generation prompt."""
    texts = [prompt if isinstance(prompt, str) else render_chat(tokenizer, prompt, True) for prompt in prompts]
    return _with_beginning(tokenizer, texts, prompts)


def completion_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Text],
    completions: Sequence[Text],
    finished: Sequence[bool] | None = None,
    stop_ids: Sequence[int] = (),
) -> list[list[int]]:
    """The token ids of each completion, which follow those of `prompt_ids`, stop token included.

    The stop token is the tokenizer's eos or one of `stop_ids`; a completion that is not `finished` has none. Prompt and
    completion are tokenised together. If the result does not begin with the prompt's ids (BPE merges tokens across the
    border, or the chat template adds text before a reply), the completion is tokenised alone. So training sees the same
    prompt ids as sampling. Raises InputError if a chat template omits or changes the completion.
    """
    whole_texts, replies = [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        if isinstance(prompt, str):
            replies.append(completion if isinstance(completion, str) else completion[-1]["content"])
            whole_texts.append(prompt + replies[-1])
        else:
            reply = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
            whole_texts.append(render_chat(tokenizer, [*prompt, *reply]))
            replies.append(_rendered_reply(tokenizer, prompt, whole_texts[-1], reply[0]["content"]))
    result = []
    whole_ids = _with_beginning(tokenizer, whole_texts, prompts)
    for before, ids, text in zip(prompt_ids(tokenizer, prompts), whole_ids, replies, strict=True):
        follows = ids[: len(before)] == before
        ids = ids[len(before) :] if follows else _encode(tokenizer, [text])[0]
        result.append(_up_to_stop(ids, tokenizer, stop_ids))
    return [ids if stop else ids[:-1] for ids, stop in zip(result, finished or [True] * len(result), strict=True)]


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]) -> list[list[int]]:
    """The token ids of each document, ending with one eos."""
    plain = [text if isinstance(text, str) else render_chat(tokenizer, text) for text in texts]
    eos = tokenizer.eos_token_id
    return [ids if ids[-1:] == [eos] else [*ids, eos] for ids in _with_beginning(tokenizer, plain, texts)]


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], generation: bool = False) -> str:
    """Chat messages as text, rendered by the tokenizer's chat template, which transformers runs in a sandbox.

    With `generation` the text ends with the generation prompt. Raises InputError if the template fails, for instance
    because the roles don't alternate.
    """
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    except TemplateError as error:
        raise InputError(f"the tokenizer's chat template refuses {plain_text(messages)[:200]!r}: {error}") from error
    return cast(str, text)


def _rendered_reply(tokenizer: PreTrainedTokenizerBase, prompt: list[dict[str, str]], whole: str, reply: str) -> str:
    """The part of the rendered chat `whole` that follows the prompt.

    If the template renders the prompt differently when a reply follows, the part that begins with the reply itself.
    """
    up_to_reply = render_chat(tokenizer, prompt, generation=True)
    if whole.startswith(up_to_reply):
        return whole[len(up_to_reply) :]
    before = render_chat(tokenizer, prompt)
    # some templates omit the thoughts of a reply
    for content in (reply.strip(), reply.rpartition("</think>")[2].strip()):
        start = whole.find(content, len(before)) if whole.startswith(before) else whole.rfind(content)
        if start >= 0:
            return whole[start:]
    raise InputError(f"the tokenizer's chat template changes the reply {reply[:200]!r}")


def _with_beginning(tokenizer: PreTrainedTokenizerBase, texts: list[str], sources: Sequence[Text]) -> list[list[int]]:
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


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
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


def _up_to_stop(ids: list[int], tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> list[int]:
    """The ids up to the stop token that ends the last turn. If there is none, eos is appended.

    A chat template may add tokens after it, such as a line break or a second stop token; they are removed. Text that
    follows a stop token belongs to the reply.
    """
    stops = [i for i, token in enumerate(ids) if token in {tokenizer.eos_token_id, *stop_ids}]
    end = len(ids)
    while stops and not str(tokenizer.decode(ids[stops[-1] + 1 : end], skip_special_tokens=True)).strip():
        end = stops.pop()
    return ids[: end + 1] if end < len(ids) else [*ids, tokenizer.eos_token_id]
