"""Packing: the sequences of a batch one after the other in a single row, without padding.

A prefix that several sequences share is stored once. Attention is computed in groups of sequences of similar length.
The queries and keys of a group are gathered from the row into padded blocks.

Shapes: B sequences; N their tokens, where a shared prefix counts for each sequence; L tokens of the packed row, where a
shared prefix counts once; G sequences of a group, with Q queries and M keys each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf.engine.gpu.transfer import to_device

MASKED = torch.finfo(torch.float32).min  # not -inf: a query whose keys are all masked would become NaN
LENGTH_MULTIPLE = 8  # lengths are rounded up to this multiple so that oneDNN reuses compiled kernels
# On a CPU, sequences with a shared prefix form at most MAX_GROUPS groups, and so do those without one. A group has at
# least MIN_GROUP_SIZE sequences. More groups save less padding than they cost in calls. On a GPU one group of each kind
# is best.
MAX_GROUPS, MIN_GROUP_SIZE = 2, 8


@dataclass
class AttentionGroup:
    """Sequences of similar length. The tokens that they do not share are consecutive in the row."""

    shape: tuple[int, int, int]  # G, Q, M
    queries: Tensor  # (G * Q,) position in the row of each query; 0 for padding
    keys: Tensor  # (G * M,) position in the row of each key; 0 for padding
    real_queries: Tensor  # indices of the G * Q queries that are not padding, in the order of the row
    own_keys: Tensor  # indices of the G * M keys that are the same tokens, in the same order
    shared_keys: Tensor  # indices of the G * M keys in a shared prefix, which another sequence stores
    bias: Tensor  # (G, Q, M), or (1, Q, M) without shared prefixes: added to attention scores; MASKED masks a key


@dataclass
class PackedLayout:
    """The positions of the sequences of a batch in a packed row."""

    row_position: Tensor  # (N,) position in the row of each token; tokens are ordered by sequence
    position_ids: Tensor  # (N,) position of the token in its sequence, from 0
    length: int  # L, the tokens of the row without filler
    longest: int  # the tokens of the longest sequence
    bounds: Tensor  # (B + 1,) int32, the first position of each sequence's own tokens, in the order of the row, then L
    groups: list[AttentionGroup]

    def as_attention_mask(self) -> Tensor:
        """A placeholder mask that carries this layout to `rlhf.engine.attention`.

        transformers passes a mask with four dimensions to the attention function unchanged.
        """
        mask = torch.empty(1, 1, 1, 0, device=self.row_position.device)
        mask.packed_layout = self  # type: ignore[attr-defined]
        return mask


def pack(lengths: Tensor, prefix_row: Tensor | None = None, prefix_lengths: Tensor | None = None) -> PackedLayout:
    """The layout of sequences of `lengths` (B,) in one row.

    Sequence i shares its first `prefix_lengths[i]` tokens with sequence `prefix_row[i]`, which stores them. The prefix
    length of a sequence that stores a prefix is 0.
    """
    # on the CPU, because a GPU would synchronise for each of these many small results
    device, lengths = lengths.device, lengths.cpu()
    prefix = torch.zeros_like(lengths) if prefix_lengths is None else prefix_lengths.cpu()
    stored = lengths - prefix
    max_groups = MAX_GROUPS if device.type == "cpu" else 1
    groups = [
        rows for kind in (prefix == 0, prefix > 0) for rows in _by_length(_indices(kind), stored, lengths, max_groups)
    ]
    order = torch.cat(groups)
    start, ends = torch.empty_like(stored), stored[order].cumsum(dim=0)
    start[order] = ends - stored[order]
    column = torch.arange(_padded_length(lengths))
    position = start[:, None] + column - prefix[:, None]
    if prefix_row is not None and prefix_lengths is not None:
        position = torch.where(column < prefix[:, None], start[prefix_row.cpu(), None] + column, position)
    real = column < lengths[:, None]
    position = position.where(real, 0)
    return PackedLayout(
        row_position=to_device(position[real], device),
        position_ids=to_device(column.expand_as(real)[real], device),
        length=int(stored.sum()),
        longest=int(lengths.max()),
        bounds=to_device(pad(ends, (1, 0)).int(), device),
        groups=[_group(rows, start, prefix, lengths, position, device) for rows in groups],
    )


def _group(
    rows: Tensor, start: Tensor, prefix: Tensor, lengths: Tensor, position: Tensor, device: torch.device
) -> AttentionGroup:
    """The attention group of sequences `rows` (G,).

    `start`, `prefix` and `lengths` are (B,): a sequence's first stored position, shared tokens and all tokens.
    `position` (B, longest sequence) is the position in the row of each token.
    """
    stored = (lengths - prefix)[rows]
    query, key = torch.arange(_padded_length(stored)), torch.arange(_padded_length(lengths[rows]))
    before, end = prefix[rows, None], lengths[rows, None]
    is_query = query < stored[:, None]
    shared_keys = _indices(key < before)
    # a query sees the shared prefix, and its sequence up to itself
    visible = key <= (before if len(shared_keys) else before[:1])[:, :, None] + query[:, None]
    return AttentionGroup(
        shape=(len(rows), len(query), len(key)),
        queries=to_device((start[rows, None] + query).where(is_query, 0).flatten(), device),
        keys=to_device(position[rows, : len(key)].flatten(), device),
        real_queries=to_device(_indices(is_query), device),
        own_keys=to_device(_indices((key >= before) & (key < end)), device),
        shared_keys=to_device(shared_keys, device),
        bias=to_device(torch.zeros(visible.shape).masked_fill(~visible, MASKED), device),
    )


def _by_length(rows: Tensor, stored: Tensor, lengths: Tensor, max_groups: int) -> list[Tensor]:
    """`rows` split into groups of similar length, the longest first."""
    groups: list[Tensor] = []
    sizes = None
    rows = rows[stored[rows].argsort(descending=True, stable=True)]
    for chunk in rows.chunk(min(max_groups, max(1, len(rows) // MIN_GROUP_SIZE))) if len(rows) else ():
        previous, sizes = sizes, (_padded_length(stored[chunk]), _padded_length(lengths[chunk]))
        # chunks that are padded to the same size are merged
        groups = [*groups[:-1], torch.cat([groups[-1], chunk])] if sizes == previous else [*groups, chunk]
    return groups


def _padded_length(lengths: Tensor) -> int:
    return max(1, -(-int(lengths.max()) // LENGTH_MULTIPLE)) * LENGTH_MULTIPLE


def _indices(condition: Tensor) -> Tensor:
    return condition.flatten().nonzero().squeeze(1)


def shared_prefix_lengths(input_ids: Tensor, attention_mask: Tensor, prefix_row: Tensor) -> Tensor:
    """Length (B,) of the prefix that each row of a batch (B, L) shares with row `prefix_row` (B,); 0 with itself."""
    real = torch.arange(input_ids.shape[1], device=input_ids.device) < attention_mask.sum(dim=1, keepdim=True)
    ids = torch.zeros_like(input_ids).masked_scatter(real, input_ids[attention_mask.bool()])
    shared = ((ids == ids[prefix_row]) & real & real[prefix_row]).long().cumprod(dim=1).sum(dim=1)
    return shared.where(prefix_row != torch.arange(len(prefix_row), device=prefix_row.device), 0)
