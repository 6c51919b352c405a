"""Tokenizers; rows as token ids, datasets and padded batches."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rlhf import InputError, first_line
from rlhf.rows import Row, Tally, Text, plain_text

EOS, PAD = "<|endoftext|>", "<|pad|>"

# for tokenizers without a chat template: plain text in the format of Anthropic's HH-RLHF transcripts
PLAIN_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '\n\nAssistant: ' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'user' %}{{ '\n\nHuman: ' + message['content'] }}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)


# --- tokenizers -------------------------------------------------------------------------------------------------------


def new_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer like GPT-2's, trained on `texts`, with separate eos and pad tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOS, PAD], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return prepare_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD))


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub id, with eos, pad and chat template, see `prepare_tokenizer`.

    Raises InputError if no tokenizer can be loaded.
    """
    missing = f"no tokenizer at {source}: save the model's own there, with tokenizer.save_pretrained"
    try:
        tokenizer = _tokenizer_class(Path(source)).from_pretrained(str(source), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{missing} ({first_line(error)})") from error
    # for a folder with only a config.json, transformers returns a tokenizer with an empty vocabulary
    if len(tokenizer) <= len(tokenizer.all_special_ids) + 1:
        raise InputError(missing)
    return prepare_tokenizer(tokenizer)


def _tokenizer_class(folder: Path) -> Any:
    """AutoTokenizer, except for folders with only the vocabulary files of GPT-2 or BERT."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "config.json")):
        for name, tokenizer_class in (("vocab.json", GPT2Tokenizer), ("vocab.txt", BertTokenizer)):
            if (folder / name).is_file():
                return tokenizer_class
    return AutoTokenizer


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Adds a missing eos token, pad token or chat template to the tokenizer, in place; returns it.

    Pad is never eos: the loss would mask the real eos along with the padding, and the model would not learn to stop.
    Padding is on the left, so that all responses of a batch start in the same column.
    """
    if tokenizer.eos_token is None:
        # BERT vocabularies, which Chinese GPT-2 models use, end a text with [SEP]
        tokenizer.eos_token = tokenizer.sep_token or EOS
        tokenizer.add_special_tokens({"eos_token": tokenizer.eos_token})
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer


def same_vocabulary(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers map the same tokens to the same ids, apart from special tokens."""
    special = {*one.all_special_tokens, *other.all_special_tokens}
    ids = [{token: i for token, i in t.get_vocab().items() if token not in special} for t in (one, other)]
    return ids[0] == ids[1]


# --- texts as token ids -----------------------------------------------------------------------------------------------


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


# --- datasets ---------------------------------------------------------------------------------------------------------


def text_dataset(rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Documents split into pieces of at most `max_length` tokens; columns `input_ids`, `labels` and `length`."""
    documents = text_ids(tokenizer, [row["messages"] if "messages" in row else row["text"] for row in rows])
    pieces = [ids[i : i + max_length] for ids in documents for i in range(0, len(ids), max_length)]
    # a single token has no next token to predict
    pieces = [ids for ids in pieces if len(ids) > 1]
    return Dataset.from_dict({"input_ids": pieces, "labels": pieces, "length": list(map(len, pieces))})


def demonstration_dataset(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, tally: Tally, stop_ids: Sequence[int] = ()
) -> Dataset:
    """Prompts with completions; columns `input_ids`, `labels` (-100, ignored by the loss, on the prompt) and `length`.

    Longer rows are dropped and counted in `tally`. Raises InputError if none is left.
    """
    prompts = [row["prompt"] for row in rows]
    completions = completion_ids(tokenizer, prompts, [row["completion"] for row in rows], stop_ids=stop_ids)
    examples = []
    for prompt, completion in zip(prompt_ids(tokenizer, prompts), completions, strict=True):
        if tally.keep(len(prompt) + len(completion) <= max_length, f"longer than {max_length} tokens"):
            labels = [-100] * len(prompt) + completion
            examples.append({"input_ids": prompt + completion, "labels": labels, "length": len(labels)})
    return _dataset(examples, tally)


def comparison_dataset(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, tally: Tally, stop_ids: Sequence[int] = ()
) -> Dataset:
    """Rankings; columns `sequences` (K lists, prompt + completion), `ranks`, `length` of the longest, and `row`.

    `row` is the index in `rows`. Longer rows are dropped and counted in `tally`. Raises InputError if none is left.
    """
    completions = iter(
        completion_ids(
            tokenizer,
            [row["prompt"] for row in rows for _ in row["completions"]],
            [completion for row in rows for completion in row["completions"]],
            [flag for row in rows for flag in row.get("ended", [True] * len(row["completions"]))],
            stop_ids,
        )
    )
    examples = []
    for number, (row, prompt) in enumerate(zip(rows, prompt_ids(tokenizer, [r["prompt"] for r in rows]), strict=True)):
        sequences = [prompt + next(completions) for _ in row["completions"]]
        if tally.keep(max(map(len, sequences)) <= max_length, f"longer than {max_length} tokens"):
            ranks = [float(rank) for rank in row["ranks"]]
            examples.append({"sequences": sequences, "ranks": ranks, "length": max(map(len, sequences)), "row": number})
    return _dataset(examples, tally)


def prompt_dataset(rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, tally: Tally) -> Dataset:
    """Prompts; columns `input_ids` and `row`, the index in `rows`.

    Prompts of more than `max_length` tokens are dropped and counted in `tally`. Raises InputError if none is left.
    """
    examples = []
    for number, ids in enumerate(prompt_ids(tokenizer, [row["prompt"] for row in rows])):
        if tally.keep(len(ids) <= max_length, f"longer than {max_length} tokens"):
            examples.append({"input_ids": ids, "row": number})
    return _dataset(examples, tally)


def _dataset(examples: list[dict[str, Any]], tally: Tally) -> Dataset:
    if not examples:
        raise InputError(f"no usable rows are left: {tally}; a longer context or max_length keeps more")
    return Dataset.from_list(examples)


# --- batches ----------------------------------------------------------------------------------------------------------


def pad(sequences: list[list[int]], pad_id: int, side: str) -> tuple[Tensor, Tensor]:
    """Token ids (B, L), padded on `side` ("left" or "right") to the longest sequence, and the attention mask (B, L)."""
    rows = [torch.tensor(ids, dtype=torch.long) for ids in sequences]
    input_ids = pad_sequence(rows, batch_first=True, padding_value=pad_id, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return input_ids, mask


def batch_order(lengths: Sequence[int], batch_size: int, epochs: float, seed: int) -> list[int]:
    """Row indices for `epochs` epochs: batches of rows of similar length, in random order.

    transformers' grouping by length instead sorts every fifty batches from long to short. Documents of one kind then
    follow each other, and a small model learns much worse.
    """
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < round(epochs * len(lengths)):
        shuffled = rng.permutation(len(lengths)).tolist()
        # sorted within fifty batches, so that a row is batched with other rows in every epoch
        chunk = 50 * batch_size
        groups = [sorted(shuffled[i : i + chunk], key=lengths.__getitem__) for i in range(0, len(shuffled), chunk)]
        batches = [group[i : i + batch_size] for group in groups for i in range(0, len(group), batch_size)]
        full = [batch for batch in batches if len(batch) == batch_size]
        rng.shuffle(full)
        # incomplete batches come last; earlier they would shift the borders of all batches that follow
        order += [row for batch in full for row in batch] + [row for b in batches if len(b) < batch_size for row in b]
    return order[: round(epochs * len(lengths))]
