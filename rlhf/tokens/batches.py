"""Batches of token ids: padding, and the order of rows."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


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
    count = round(epochs * len(lengths))
    order = []
    for _ in range(math.ceil(count / max(len(lengths), 1))):
        shuffled = rng.permutation(len(lengths))
        # sorted within fifty batches, so that a row is batched with other rows in every epoch
        parts = [shuffled[i : i + 50 * batch_size] for i in range(0, len(shuffled), 50 * batch_size)]
        ordered = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
        full = len(ordered) // batch_size
        batches = np.arange(full)
        rng.shuffle(batches)
        # an incomplete batch comes last; earlier it would shift the borders of all batches that follow
        order += [ordered[: full * batch_size].reshape(full, batch_size)[batches].ravel(), ordered[full * batch_size :]]
    return np.concatenate(order)[:count] if order else np.zeros(0, np.int64)
