"""Attention for transformers' models: of rows with a mask as theirs, or of sequences that lie one after the other in a row.

Such a row has no padding. For their products its sequences are put into tables of those of similar length; what two
sequences begin with alike lies in the row once, is asked once, and is looked at by both. The results are the same as
transformers', to rounding.

Shapes: H heads of width D; a row of N tokens, some of them filler at its end; tables of b sequences, with i queries and
j keys of each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "rlhf"  # the name of `attention` among transformers' implementations
# up to this many tokens a row, attention by plain products is faster on a CPU than the fused kernel, whose memory is less
PLAIN_LENGTH = 512
LOWEST = torch.finfo(torch.float32).min  # not -inf: a row in which all is hidden would be no number
SPECIAL = ("sliding_window", "softcap", "s_aux", "position_bias")  # what a model may want of attention besides
ROUND = 8  # lengths are rounded up to a multiple of it: oneDNN compiles products anew for each new shape
# tables of sequences that share nothing, or that share something, at most, and sequences in each at least: more would
# gain less than the calls cost, on a GPU even the second
TABLES, ROWS = 2, 8


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, None]:
    """What transformers calls: attention of rows with a mask as theirs, or of one row whose mask is `Layout.as_mask`.

    `query` is (B, H, L, D), `key` and `value` may have fewer heads and more tokens; the result is (B, L, H, D). Raises
    NotImplementedError for a layout where the model wants more than causal attention.
    """
    layout = getattr(attention_mask, "of_row", None)
    special = [name for name in SPECIAL if kwargs.get(name) is not None]
    causal = getattr(module, "is_causal", True) if kwargs.get("is_causal") is None else kwargs["is_causal"]
    if layout and (special or not causal):
        raise NotImplementedError(f"a row without padding, and {special or 'attention to what follows'}")
    if special or not (layout or _plain(query, key.shape[2])):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    if repeats := query.shape[1] // key.shape[1] - 1:
        key, value = (states.repeat_interleave(repeats + 1, dim=1) for states in (key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if layout:
        return _of_sequences(query[0], key[0], value[0], layout, scaling, dropout).transpose(0, 1)[None], None
    if attention_mask is None and causal and query.shape[2] > 1:
        attention_mask = _causal(query.shape[2], query.device)
    return _by_products(query, key, value, attention_mask, scaling, dropout).transpose(1, 2), None


def _plain(query: Tensor, longest: int) -> bool:
    """Whether plain products are faster than torch's fused kernel."""
    return query.device.type == "cpu" and longest <= PLAIN_LENGTH


def _causal(length: int, device: torch.device) -> Tensor:
    """What is added to scores (L, L) for a token not to see those that follow it."""
    hidden = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
    return torch.zeros(length, length, device=device).masked_fill(hidden, LOWEST)


def _by_products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scaling: float, dropout: float) -> Tensor:
    """Attention (B, H, L, D) by two products of matrices; `bias` is added to their scores, or False where it hides."""
    scores = ((q * scaling) @ k.transpose(2, 3)).float()
    if bias is not None:
        scores += _added(bias)  # in place; masked_fill with a mask that is broadcast takes ten times as long
    weights = torch.nn.functional.dropout(torch.softmax(scores, dim=-1).to(v.dtype), dropout)
    return torch.bmm(weights.flatten(0, 1), v.flatten(0, 1)).view(*q.shape[:3], v.shape[3])


def _added(mask: Tensor) -> Tensor:
    """What a mask adds to scores. That of a bool one, False where it hides, stays with it for the layers that follow."""
    if mask.dtype != torch.bool:
        return mask
    if not hasattr(mask, "added"):
        mask.added = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, LOWEST)
    return mask.added


# --- sequences in one row ---------------------------------------------------------------------------------------------


@dataclass
class Table:
    """Sequences of similar length side by side: b of them, whose n tokens follow one another in the row."""

    sizes: tuple[int, int, int]  # b, i, j
    queries: Tensor  # (b * i,) the place in the row of each token that asks; of any, where there is none
    keys: Tensor  # (b * j,) the place in the row of each token that is looked at; of any, where there is none
    asking: Tensor  # (n,) the numbers of the queries that there are, in the order of the row
    seen: Tensor  # (n,) the numbers of the keys that are the same tokens
    again: Tensor  # the numbers of the keys that are tokens of another sequence, with which this one begins
    bias: Tensor  # (b, i, j) or, where they share nothing, (1, i, j), added to scores: LOWEST for keys not to be seen


@dataclass
class Layout:
    """Where sequences lie in a row."""

    place: Tensor  # (N,) the place in the row of each of their tokens, sequence after sequence
    position: Tensor  # (N,) its number in its sequence, from 0
    tokens: int  # in the row, those that sequences have in common counted once
    tables: list[Table]

    def as_mask(self) -> Tensor:
        """What `attention` is given in place of a mask; its four dimensions have transformers hand it on as it is."""
        mask = torch.empty(1, 1, 1, 0, device=self.place.device)
        mask.of_row = self
        return mask


def lay(lengths: Tensor, first: Tensor | None = None, shared: Tensor | None = None) -> Layout:
    """Puts sequences of `lengths` (B,) into one row.

    Where sequence b has its first `shared` (B,) tokens in common with sequence `first` (B,), which shares none itself,
    they lie in the row once, as tokens of that one.
    """
    # many small numbers, each of which a GPU would be waited for
    device, lengths = lengths.device, lengths.cpu()
    common = torch.zeros_like(lengths) if shared is None else shared.cpu()
    own = lengths - common
    most = TABLES if device.type == "cpu" else 1
    parts = [rows for some in (common == 0, common > 0) for rows in _similar(_numbers(some), own, lengths, most)]
    order = torch.cat(parts)
    start = torch.empty_like(own)
    start[order] = own[order].cumsum(dim=0) - own[order]
    column = torch.arange(_rounded(lengths))
    place = start[:, None] + column - common[:, None]
    if shared is not None:
        place = torch.where(column < common[:, None], start[first.cpu(), None] + column, place)
    real = column < lengths[:, None]
    place = place.where(real, 0)

    tables = []
    for rows in parts:
        i, j = column[: _rounded(own[rows])], column[: _rounded(lengths[rows])]
        before, until, asking = common[rows, None], lengths[rows, None], i < own[rows, None]
        again = _numbers(j < before)
        visible = j <= (before if len(again) else before[:1])[:, :, None] + i[:, None]
        tables.append(
            Table(
                sizes=(len(rows), len(i), len(j)),
                queries=(start[rows, None] + i).where(asking, 0).flatten().to(device),
                keys=place[rows, : len(j)].flatten().to(device),
                asking=_numbers(asking).to(device),
                seen=_numbers((j >= before) & (j < until)).to(device),
                again=again.to(device),
                bias=torch.zeros(visible.shape).masked_fill(~visible, LOWEST).to(device),
            )
        )
    return Layout(place[real].to(device), column.expand_as(real)[real].to(device), int(own.sum()), tables)


def _similar(rows: Tensor, own: Tensor, lengths: Tensor, most: int) -> list[Tensor]:
    """The rows in parts of similar length, the longest first."""
    parts: list[Tensor] = []
    sizes = None
    rows = rows[own[rows].argsort(descending=True, stable=True)]
    for some in rows.chunk(min(most, max(1, len(rows) // ROWS))) if len(rows) else []:
        before, sizes = sizes, (_rounded(own[some]), _rounded(lengths[some]))
        parts = [*parts[:-1], torch.cat([parts[-1], some])] if sizes == before else [*parts, some]
    return parts


def _rounded(lengths: Tensor) -> int:
    return max(1, -(-int(lengths.max()) // ROUND)) * ROUND


def _numbers(wanted: Tensor) -> Tensor:
    return wanted.flatten().nonzero().squeeze(1)


def _of_sequences(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scaling: float, dropout: float) -> Tensor:
    """Causal attention (H, N, D) of the sequences of a row; 0 for what fills it up."""
    if dropout or not all(_plain(q, table.sizes[2]) for table in layout.tables):
        return _row([_by_fused_kernel(q, k, v, table, scaling, dropout) for table in layout.tables], q)
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (states.to(torch.get_autocast_dtype("cpu")) for states in (q, k, v))
    return _Products.apply(q, k, v, layout, scaling)


def _row(parts: list[Tensor], like: Tensor) -> Tensor:
    """Parts (H, n, D) one after the other, and zeros until they have as many tokens as `like`."""
    filler = like.shape[1] - sum(part.shape[1] for part in parts)
    return torch.cat([*parts, like.new_zeros(like.shape[0], filler, like.shape[2], dtype=parts[0].dtype)], dim=1)


def _by_fused_kernel(q: Tensor, k: Tensor, v: Tensor, table: Table, scaling: float, dropout: float) -> Tensor:
    """Attention (H, n, D) of a table's sequences, by torch's kernel."""
    heads, width, (b, i, j) = q.shape[0], q.shape[2], table.sizes
    q = q.index_select(1, table.queries).view(heads, b, i, width).transpose(0, 1)
    k, v = (states.index_select(1, table.keys).view(heads, b, j, width).transpose(0, 1) for states in (k, v))
    plain = len(table.again) == 0
    bias = None if plain else table.bias.to(q.dtype)[:, None]
    output = scaled_dot_product_attention(q, k, v, bias, is_causal=plain, scale=scaling, dropout_p=dropout)
    return output.transpose(0, 1).reshape(heads, b * i, width).index_select(1, table.asking)


class _Products(torch.autograd.Function):
    """The same of all tables by plain products."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, layout: Layout, scaling: float) -> Tensor:
        heads, _, width = q.shape
        parts, kept = [], []
        with torch.autocast("cpu", enabled=False):
            for table in layout.tables:
                b, i, j = table.sizes
                qs = q.index_select(1, table.queries).mul_(scaling).view(heads * b, i, width)
                ks, vs = (states.index_select(1, table.keys).view(heads * b, j, width) for states in (k, v))
                scores = torch.bmm(qs, ks.transpose(1, 2))
                scores = scores.to(torch.promote_types(scores.dtype, torch.float32))  # softmax of bf16 is slow
                scores.view(heads, b, i, j).add_(table.bias)
                weights = torch.softmax(scores, dim=-1).to(q.dtype)
                parts.append(torch.bmm(weights, vs).view(heads, b * i, width).index_select(1, table.asking))
                kept += [qs, ks, vs, weights]
        ctx.save_for_backward(*kept)
        ctx.layout, ctx.scaling = layout, scaling
        return _row(parts, q)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        heads, _, width = grad.shape
        dq, dk, dv = torch.zeros((3, *grad.shape), dtype=grad.dtype, device=grad.device)
        start = 0
        for number, table in enumerate(ctx.layout.tables):
            qs, ks, vs, weights = ctx.saved_tensors[4 * number : 4 * number + 4]
            (b, i, _), own = table.sizes, slice(start, start + len(table.asking))
            # what no token asks for has no gradient, whatever stands in its place
            asked = grad.new_zeros(heads, b * i, width).index_copy_(1, table.asking, grad[:, own])
            asked = asked.view(heads * b, i, width)
            scores = torch.bmm(asked, vs.transpose(1, 2))
            scores = torch._softmax_backward_data(scores, weights, -1, weights.dtype)
            dq[:, own] = torch.bmm(scores, ks).view(heads, b * i, width).index_select(1, table.asking).mul_(ctx.scaling)
            for found, each in ((dk, torch.bmm(scores.mT, qs)), (dv, torch.bmm(weights.mT, asked))):
                each = each.view(heads, -1, width)
                found[:, own] += each.index_select(1, table.seen)
                if len(table.again):
                    # a token that many sequences begin with learns from all of them
                    found.index_add_(1, table.keys[table.again], each.index_select(1, table.again))
            start = own.stop
        return dq, dk, dv, None, None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
