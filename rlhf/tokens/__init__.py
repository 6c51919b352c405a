"""Tokenizers, and rows as token ids.

tokenizers   trained on text or loaded, with eos, pad and a chat template
chats        chats as text
replies      replies in a chat: the text after the generation prompt, and where a reply lies
control_tokens   special tokens that a user writes, which are text
encoding     text as token ids
labels       which tokens of a demonstration are learned
ids          prompts, completions and documents as token ids
datasets     rows of each kind as datasets of token ids
files        datasets in Arrow files, made by several processes and mapped into memory
batches      padding, and the order of rows
"""

from rlhf.tokens.batches import batch_order, own_batches, pad
from rlhf.tokens.chats import RefusedChat, render_chat
from rlhf.tokens.control_tokens import is_rendered
from rlhf.tokens.datasets import (
    TOO_LONG,
    comparison_dataset,
    demonstration_dataset,
    prompt_dataset,
    text_dataset,
    tokenised_text,
)
from rlhf.tokens.files import TokenFiles
from rlhf.tokens.ids import completion_ids, plain_text_ids, prompt_ids, text_ids
from rlhf.tokens.labels import IGNORED
from rlhf.tokens.tokenizers import (
    PLAIN_CHAT_TEMPLATE,
    load_tokenizer,
    new_tokenizer,
    prepare_tokenizer,
    same_vocabulary,
    stored_tokenizer,
)

__all__ = [
    "IGNORED",
    "PLAIN_CHAT_TEMPLATE",
    "TOO_LONG",
    "RefusedChat",
    "TokenFiles",
    "batch_order",
    "comparison_dataset",
    "completion_ids",
    "demonstration_dataset",
    "is_rendered",
    "load_tokenizer",
    "new_tokenizer",
    "own_batches",
    "pad",
    "plain_text_ids",
    "prepare_tokenizer",
    "prompt_dataset",
    "prompt_ids",
    "render_chat",
    "same_vocabulary",
    "stored_tokenizer",
    "text_dataset",
    "text_ids",
    "tokenised_text",
]
