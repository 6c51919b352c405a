"""Batches of token ids: padding, and the order of rows."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlhf.engine import process_count, process_index


def pad(sequences: list[list[int]], pad_id: int, side: str) -> tuple[Tensor, Tensor]:
    """Token ids (B, L), padded on `side` ("left" or "right") to the longest sequence, and the attention mask (B, L)."""
    rows = [torch.tensor(ids, dtype=torch.long) for ids in sequences]
    input_ids = pad_sequence(rows, batch_first=True, padding_value=pad_id, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return input_ids, mask


def batch_order(lengths: Sequence[int] | np.ndarray, batch_size: int, epochs: float, seed: int) -> np.ndarray:
    """Row indices for `epochs` epochs: batches of rows of similar length, in random order.

    transformers' grouping by length instead sorts every fifty batches from long to short. Documents of one kind then
    follow each other, and a small model learns much worse.
    """
    rng, lengths = np.random.default_rng(seed), np.asarray(lengths)
    size = len(lengths)
    order = np.empty(round(epochs * size), dtype=np.uint32)  # in place and of 32 bits: there may be millions of rows
    for start in range(0, len(order), max(size, 1)):
        rows = rng.permutation(size).astype(np.uint32)
        # sorted within fifty batches, so that a row is batched with other rows in every epoch
        for i in range(0, size, 50 * batch_size):
            part = rows[i : i + 50 * batch_size]
            part[:] = part[np.argsort(lengths[part], kind="stable")]
        # an incomplete batch comes last; earlier it would shift the borders of all batches that follow
        full = size // batch_size
        batches = np.arange(full)
        rng.shuffle(batches)
        rows[: full * batch_size] = rows[: full * batch_size].reshape(full, batch_size)[batches].ravel()
        order[start : start + size] = rows[: len(order) - start]
    return order


def own_batches(sequences: Sequence[list[int]], batch_size: int) -> Iterator[list[int]]:
    """The indices of sequences of similar length, a batch at a time; of several processes each gets other batches.

    The longest come first: memory that a batch has freed then has room for the next one.
    """
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for number, start in enumerate(reversed(range(0, len(order), batch_size))):
        if number % process_count() == process_index():
            yield order[start : start + batch_size]
