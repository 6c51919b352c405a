"""Text as token ids, without the special tokens that a tokenizer adds around it."""

import copy
import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.tokens.chats import RefusedChat
from rlhf.tokens.control_tokens import MARK, control_tokens, without_marks

Offsets = list[tuple[int, int]]  # the characters (start, end) that each token covers


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts, a thousand texts at a time to bound memory. Raises RefusedChat, see `_encode_marked`."""
    parts = (texts[start : start + 1000] for start in range(0, len(texts), 1000))
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        # the same ids as from transformers, without computing offsets, which takes half of the time
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        encodings = (backend.encode_batch_fast(part, add_special_tokens=False) for part in parts)
        result = [encoding.ids for part in encodings for encoding in part]
    else:
        result = [ids for part in parts for ids in tokenizer(part, add_special_tokens=False).input_ids]
    pairs = zip(texts, result, strict=True)
    return [_encode_marked(tokenizer, text, False)[0] if MARK in text else ids for text, ids in pairs]


def encode_continuation(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text that follows another text: without the space that a Llama's tokenizer puts before a text."""
    if MARK not in text and (_backend(tokenizer, False) is None or not _adds_space(tokenizer)):
        return encode(tokenizer, [text])[0]
    return ids_with_offsets(tokenizer, text, continued=True)[0]


def ids_with_offsets(
    tokenizer: PreTrainedTokenizerBase, text: str, continued: bool = False
) -> tuple[list[int], Offsets]:
    """The ids of a text, and their offsets; with `continued` those of `encode_continuation`.

    Both are empty for a tokenizer without a fast implementation, which knows no offsets.
    """
    backend = _backend(tokenizer, continued)
    if backend is None:
        return [], []
    if MARK in text:
        return _encode_marked(tokenizer, text, continued)
    encoding = backend.encode(text, add_special_tokens=False)
    return encoding.ids, encoding.offsets


# --- control tokens that a row contains -------------------------------------------------------------------------------


def _encode_marked(tokenizer: PreTrainedTokenizerBase, text: str, continued: bool) -> tuple[list[int], Offsets]:
    """The ids and offsets of a text with marks, each of which is encoded as the characters of its control token.

    The pieces between the template's own special tokens are encoded one by one. Raises RefusedChat if this would also
    change other ids: if the ids of the text with its marks differ, whole and piece by piece.
    """
    whole = _backend(tokenizer, continued)
    if whole is not None:
        expected = whole.encode(text, add_special_tokens=False).ids
        pieces = list(_pieces(tokenizer, text))
        for later_continued in (False, True):
            if _joined(_encode_pieces(tokenizer, pieces, continued, later_continued))[0] == expected:
                pieces = [(without_marks(tokenizer, piece), special) for piece, special in pieces]
                encodings = _encode_pieces(tokenizer, pieces, continued, later_continued)
                written = [i for (_, special), e in zip(pieces, encodings, strict=True) if not special for i in e.ids]
                if not _special_ids(tokenizer) & set(written):
                    return _joined(encodings, [len(piece) for piece, _ in pieces])
    shown = without_marks(tokenizer, text[max(text.index(MARK) - 40, 0) :][:100])
    raise RefusedChat(
        f"the tokenizer can't encode the control tokens in {shown!r} as characters",
        "control tokens that the tokenizer can't encode as characters",
    )


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> Iterator[tuple[str, bool]]:
    """(piece, whether it is a special token with the spaces that belong to it)."""
    start = 0
    for match in _special_pattern(tokenizer).finditer(text):
        if start < match.start():
            yield text[start : match.start()], False
        yield match[0], True
        start = match.end()
    if start < len(text):
        yield text[start:], False


@lru_cache(maxsize=8)
def _special_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Matches the special tokens, and the spaces that a tokenizer removes around them."""
    added = sorted(tokenizer.added_tokens_decoder.values(), key=lambda token: -len(token.content))
    spaces = {True: r"\s*", False: ""}
    patterns = (
        spaces[token.lstrip] + re.escape(token.content) + spaces[token.rstrip] for token in added if token.special
    )
    return re.compile("|".join(patterns) or "(?!)")


@lru_cache(maxsize=8)
def _special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of control tokens, but for the one that stands for unknown characters."""
    control, unknown = control_tokens(tokenizer).marks, tokenizer.unk_token_id
    return frozenset(i for token, i in tokenizer.get_vocab().items() if token in control and i != unknown)


def _encode_pieces(
    tokenizer: PreTrainedTokenizerBase, pieces: list[tuple[str, bool]], continued: bool, later_continued: bool
) -> list[Encoding]:
    result = []
    for number, (piece, special) in enumerate(pieces):
        backend = _backend(tokenizer, later_continued if number else continued, as_characters=not special)
        result.append(backend.encode(piece, add_special_tokens=False))  # type: ignore[union-attr]
    return result


def _joined(encodings: list[Encoding], lengths: Sequence[int] = ()) -> tuple[list[int], Offsets]:
    """The ids of pieces, and, with the lengths of the pieces, their offsets."""
    ids, offsets, shift = [i for encoding in encodings for i in encoding.ids], [], 0
    for encoding, length in zip(encodings, lengths, strict=False):
        offsets += [(start + shift, end + shift) for start, end in encoding.offsets]
        shift += length
    return ids, offsets


# --- copies of a tokenizer --------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _backend(
    tokenizer: PreTrainedTokenizerBase, continued: bool = False, as_characters: bool = False
) -> Tokenizer | None:
    """A copy without the post-processor, which may leave out the space before a word from a token's offsets.

    With `continued` it puts no space before a text; with `as_characters` it encodes special tokens as characters. None
    for a tokenizer without a fast implementation.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    if continued and _adds_space(tokenizer):
        backend = Tokenizer.from_str(json.dumps(_without_space(json.loads(backend.to_str()))))
    backend.encode_special_tokens = as_characters
    backend.post_processor = None
    backend.no_truncation()
    backend.no_padding()
    return backend


@lru_cache(maxsize=8)
def _adds_space(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the tokenizer puts a space before a text, as those made by sentencepiece do."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    return _without_space(parts) != parts


def _without_space(parts: Any) -> Any:
    """The JSON of a tokenizer that puts no space before a text."""
    pre_tokenizer = _edited(parts["pre_tokenizer"], "pretokenizers")
    return {**parts, "normalizer": _edited(parts["normalizer"], "normalizers"), "pre_tokenizer": pre_tokenizer}


def _edited(part: Any, several: str) -> Any:
    if part is None:
        return None
    if part["type"] == "Sequence":
        inner = [_edited(one, several) for one in part[several]]
        return {**part, several: [one for one in inner if one is not None]}
    if part["type"] == "Prepend":
        return None
    if part["type"] == "Metaspace":
        return {**part, "prepend_scheme": "never"}
    return {**part, "add_prefix_space": False} if part.get("add_prefix_space") else part
