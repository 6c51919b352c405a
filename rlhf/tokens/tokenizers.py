"""Tokenizers: trained on text or loaded, with an eos token, a pad token and a chat template."""

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rlhf import InputError, first_line
from rlhf.adapters.folders import model_folder
from rlhf.escape import WIDE

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
    return prepare_tokenizer(stored_tokenizer(source))


def stored_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub id as it is stored. Raises InputError if none can be loaded."""
    source = model_folder(source, "tokenizer_config.json")
    missing = f"no tokenizer at {source}: save the model's tokenizer there, with tokenizer.save_pretrained"
    try:
        tokenizer = _tokenizer_class(Path(source)).from_pretrained(str(source), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{missing} ({first_line(error)})") from error
    # for a folder with only a config.json, transformers returns a tokenizer with an empty vocabulary
    if len(tokenizer) <= len(tokenizer.all_special_ids) + 1:
        raise InputError(missing)
    return tokenizer


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
    Padding is on the left, so that all responses of a batch start in the same column. Chats begin with the tokenizer's
    bos, if it has one, as strings do.
    """
    if tokenizer.eos_token is None:
        # BERT vocabularies, which Chinese GPT-2 models use, end a text with [SEP]
        tokenizer.eos_token = tokenizer.sep_token or EOS
        tokenizer.add_special_tokens({"eos_token": tokenizer.eos_token})
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _literal(beginning_text(tokenizer)) + PLAIN_CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    _join_wide_characters(tokenizer)
    return tokenizer


def _join_wide_characters(tokenizer: PreTrainedTokenizerBase) -> None:
    """Decodes Chinese without blanks between characters, which are tokens of their own in BERT's vocabularies."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and isinstance(backend.decoder, decoders.WordPiece):
        blank = Regex(f"(?<=[{WIDE}]) | (?=[{WIDE}])")
        backend.decoder = decoders.Sequence([backend.decoder, decoders.Fuse(), decoders.Replace(blank, "")])


def beginning_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """The special tokens that the tokenizer puts before a text, as text; "" if there are none."""
    return "".join(tokenizer.convert_ids_to_tokens(beginning_ids(tokenizer)))


def _literal(text: str) -> str:
    """A chat template that renders the text; an empty one for an empty text."""
    return "{{ " + json.dumps(text) + " }}" if text else ""


@lru_cache(maxsize=8)
def beginning_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts before a text: bos for Llama, [CLS] for BERT, none for GPT-2."""
    plain, special = (tokenizer("a", add_special_tokens=flag).input_ids for flag in (False, True))
    start = next((i for i in range(len(special)) if special[i : i + len(plain)] == plain), 0)
    return special[:start]


def same_vocabulary(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers map the same tokens to the same ids, apart from special tokens."""
    special = {*one.all_special_tokens, *other.all_special_tokens}
    ids = [{token: i for token, i in t.get_vocab().items() if token not in special} for t in (one, other)]
    return ids[0] == ids[1]
