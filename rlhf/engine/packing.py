"""Packing: the sequences of a batch one after the other in a single row, without padding.

A prefix that several sequences share is stored once. Attention is computed in groups of sequences of similar length: each
group is gathered from the row into padded blocks of queries and keys.

Shapes: B sequences; N their tokens, counted once for each sequence; G sequences of a group with Q queries and M keys.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MASKED = torch.finfo(torch.float32).min  # not -inf: a query whose keys are all masked would become NaN
LENGTH_MULTIPLE = 8  # lengths are rounded up to this multiple so that oneDNN reuses compiled kernels
# the most groups of sequences without, and of those with, a shared prefix on a CPU, and the fewest sequences of a group:
# finer groups save less padding than their calls cost; on a GPU one group of each is best
MAX_GROUPS, MIN_GROUP_SIZE = 2, 8


@dataclass
class AttentionGroup:
    """Sequences of similar length; their own tokens are consecutive in the row. Sequences G, queries Q, keys M each."""

    shape: tuple[int, int, int]  # G, Q, M
    queries: Tensor  # (G * Q,) row position of each query; 0 where it is padding
    keys: Tensor  # (G * M,) row position of each key; 0 where it is padding
    real_queries: Tensor  # (n,) which of the G * Q queries are tokens, in the order of the row
    own_keys: Tensor  # (n,) which of the G * M keys are the same tokens
    shared_keys: Tensor  # which of the G * M keys belong to a shared prefix, that is, to another sequence
    bias: Tensor  # (G, Q, M), or (1, Q, M) without shared prefixes: added to attention scores; MASKED hides a key


@dataclass
class PackedLayout:
    """Where the sequences of a batch lie in a packed row."""

    row_position: Tensor  # (N,) position in the row of each token, sequence after sequence
    position_ids: Tensor  # (N,) its position in its own sequence, from 0
    length: int  # of the row: N, less the tokens of shared prefixes that are stored once
    groups: list[AttentionGroup]

    def as_attention_mask(self) -> Tensor:
        """A placeholder mask that carries this layout to `rlhf.engine.attention`.

        transformers hands a mask of four dimensions to the attention function unchanged.
        """
        mask = torch.empty(1, 1, 1, 0, device=self.row_position.device)
        mask.packed_layout = self  # type: ignore[attr-defined]
        return mask


def pack(lengths: Tensor, prefix_row: Tensor | None = None, prefix_lengths: Tensor | None = None) -> PackedLayout:
    """The layout of sequences of `lengths` (B,) in one row.

    The first `prefix_lengths` (B,) tokens of a sequence are those of sequence `prefix_row` (B,), and are stored once, as
    tokens of that one, whose own prefix length is 0.
    """
    # on the CPU: each of these many small results would make a GPU wait
    device, lengths = lengths.device, lengths.cpu()
    prefix = torch.zeros_like(lengths) if prefix_lengths is None else prefix_lengths.cpu()
    own = lengths - prefix
    max_groups = MAX_GROUPS if device.type == "cpu" else 1
    groups = [
        rows for kind in (prefix == 0, prefix > 0) for rows in _by_length(_indices(kind), own, lengths, max_groups)
    ]
    order = torch.cat(groups)
    start = torch.empty_like(own)
    start[order] = own[order].cumsum(dim=0) - own[order]
    column = torch.arange(_padded_length(lengths))
    position = start[:, None] + column - prefix[:, None]
    if prefix_row is not None and prefix_lengths is not None:
        position = torch.where(column < prefix[:, None], start[prefix_row.cpu(), None] + column, position)
    real = column < lengths[:, None]
    position = position.where(real, 0)
    return PackedLayout(
        row_position=position[real].to(device),
        position_ids=column.expand_as(real)[real].to(device),
        length=int(own.sum()),
        groups=[_group(rows, start, prefix, lengths, position, device) for rows in groups],
    )


def _group(
    rows: Tensor, start: Tensor, prefix: Tensor, lengths: Tensor, position: Tensor, device: torch.device
) -> AttentionGroup:
    """The group of sequences `rows` (G,); start, prefix and lengths (B,), `position` (B, L) in the row of each token."""
    own = (lengths - prefix)[rows]
    query, key = torch.arange(_padded_length(own)), torch.arange(_padded_length(lengths[rows]))
    before, end = prefix[rows, None], lengths[rows, None]
    is_query = query < own[:, None]
    shared_keys = _indices(key < before)
    # a query sees the prefix and its own sequence up to itself
    visible = key <= (before if len(shared_keys) else before[:1])[:, :, None] + query[:, None]
    return AttentionGroup(
        shape=(len(rows), len(query), len(key)),
        queries=(start[rows, None] + query).where(is_query, 0).flatten().to(device),
        keys=position[rows, : len(key)].flatten().to(device),
        real_queries=_indices(is_query).to(device),
        own_keys=_indices((key >= before) & (key < end)).to(device),
        shared_keys=shared_keys.to(device),
        bias=torch.zeros(visible.shape).masked_fill(~visible, MASKED).to(device),
    )


def _by_length(rows: Tensor, own: Tensor, lengths: Tensor, max_groups: int) -> list[Tensor]:
    """`rows` split into groups of similar length, the longest first."""
    groups: list[Tensor] = []
    sizes = None
    rows = rows[own[rows].argsort(descending=True, stable=True)]
    for chunk in rows.chunk(min(max_groups, max(1, len(rows) // MIN_GROUP_SIZE))) if len(rows) else ():
        previous, sizes = sizes, (_padded_length(own[chunk]), _padded_length(lengths[chunk]))
        # chunks that are padded to the same size make one group
        groups = [*groups[:-1], torch.cat([groups[-1], chunk])] if sizes == previous else [*groups, chunk]
    return groups


def _padded_length(lengths: Tensor) -> int:
    return max(1, -(-int(lengths.max()) // LENGTH_MULTIPLE)) * LENGTH_MULTIPLE


def _indices(condition: Tensor) -> Tensor:
    return condition.flatten().nonzero().squeeze(1)


def shared_prefix_lengths(input_ids: Tensor, attention_mask: Tensor, prefix_row: Tensor) -> Tensor:
    """How many first tokens (B,) each row of a batch (B, L) shares with row `prefix_row` (B,); 0 if that is itself."""
    real = torch.arange(input_ids.shape[1], device=input_ids.device) < attention_mask.sum(dim=1, keepdim=True)
    ids = torch.zeros_like(input_ids).masked_scatter(real, input_ids[attention_mask.bool()])
    shared = ((ids == ids[prefix_row]) & real & real[prefix_row]).long().cumprod(dim=1).sum(dim=1)
    return shared.where(prefix_row != torch.arange(len(prefix_row), device=prefix_row.device), 0)
