"""Attention for transformers' models, over padded rows with a mask or over sequences packed into one row.

The results equal those of transformers' attention up to rounding. For packed rows see `rlhf.engine.packing`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlhf.engine.gpu.varlen import uses_varlen, varlen_attention
from rlhf.engine.packing import MASKED, AttentionGroup, PackedLayout

ATTENTION = "rlhf"  # the name under which `attention` is registered with transformers
# up to this many keys two matrix products are faster on a CPU than the fused kernel; beyond, they need too much memory
MAX_PRODUCT_LENGTH = 512
UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias")  # arguments that are not implemented here


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The attention function that transformers calls. Returns the output (B, L, H, D), and None for the weights.

    The output is contiguous, because some models call `view` on it. `query` is (B, H, L, D); `key` and `value` may have
    fewer heads and more tokens. `attention_mask` is a mask of transformers, or `PackedLayout.as_attention_mask` for a
    packed row. Raises NotImplementedError for a packed row in a model that needs more than causal attention.
    """
    layout = getattr(attention_mask, "packed_layout", None)
    unsupported = [name for name in UNSUPPORTED if kwargs.get(name) is not None]
    causal = getattr(module, "is_causal", True) if kwargs.get("is_causal") is None else kwargs["is_causal"]
    if layout and (unsupported or not causal):
        raise NotImplementedError(f"packed rows with {unsupported or 'attention that is not causal'}")
    if unsupported or not (layout or _use_products(query, key.shape[2])):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    if repeats := query.shape[1] // key.shape[1] - 1:
        key, value = (states.repeat_interleave(repeats + 1, dim=1) for states in (key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if layout:
        return _packed_attention(query[0], key[0], value[0], layout, scaling, dropout).transpose(0, 1)[
            None
        ].contiguous(), None
    if attention_mask is None and causal and query.shape[2] > 1:
        attention_mask = _causal_bias(query.shape[2], query.device)
    return _attention_by_products(query, key, value, attention_mask, scaling, dropout).transpose(
        1, 2
    ).contiguous(), None


def _use_products(query: Tensor, length: int) -> bool:
    """Whether to compute attention over `length` keys by two matrix products instead of torch's fused kernel."""
    return query.device.type == "cpu" and length <= MAX_PRODUCT_LENGTH


# --- padded rows ------------------------------------------------------------------------------------------------------


def _causal_bias(length: int, device: torch.device) -> Tensor:
    """The additive bias (L, L) that masks the tokens after each token."""
    hidden = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
    return torch.zeros(length, length, device=device).masked_fill(hidden, MASKED)


def _attention_by_products(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, dropout: float
) -> Tensor:
    """Attention (B, H, L, D) by two matrix products. `mask` is an additive bias, or bool and True where visible."""
    scores = ((q * scaling) @ k.transpose(2, 3)).float()
    if mask is not None:
        scores += _bias_of(mask)  # in place: masked_fill with a broadcast mask takes ten times as long
    weights = torch.nn.functional.dropout(torch.softmax(scores, dim=-1).to(v.dtype), dropout)
    return torch.bmm(weights.flatten(0, 1), v.flatten(0, 1)).view(*q.shape[:3], v.shape[3])


def _bias_of(mask: Tensor) -> Tensor:
    """The mask as an additive bias. The bias of a bool mask is cached on the mask, for the following layers."""
    if mask.dtype != torch.bool:
        return mask
    bias: Tensor | None = getattr(mask, "bias", None)
    if bias is None:
        bias = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, MASKED)
        mask.bias = bias  # type: ignore[attr-defined]
    return bias


# --- packed rows ------------------------------------------------------------------------------------------------------


def _packed_attention(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, scaling: float, dropout: float) -> Tensor:
    """Causal attention (H, L, D) within the sequences of a packed row of L tokens; 0 for the filler at its end."""
    if uses_varlen(q, layout, dropout):
        return _concatenate([varlen_attention(q, k, v, layout, scaling)], q)
    if dropout or not all(_use_products(q, group.shape[2]) for group in layout.groups):
        return _concatenate([_group_by_fused_kernel(q, k, v, group, scaling, dropout) for group in layout.groups], q)
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (states.to(torch.get_autocast_dtype("cpu")) for states in (q, k, v))
    return _GroupedProducts.apply(q, k, v, layout, scaling)


def _concatenate(parts: list[Tensor], like: Tensor) -> Tensor:
    """The parts (H, tokens, D) concatenated along tokens, and padded with zeros to the length of `like` (H, L, D)."""
    filler = like.shape[1] - sum(part.shape[1] for part in parts)
    return torch.cat([*parts, like.new_zeros(like.shape[0], filler, like.shape[2], dtype=parts[0].dtype)], dim=1)


def _group_by_fused_kernel(
    q: Tensor, k: Tensor, v: Tensor, group: AttentionGroup, scaling: float, dropout: float
) -> Tensor:
    """Attention (H, tokens, D) of a group's sequences, without padding, by torch's fused kernel."""
    heads, width, (count, queries, keys) = q.shape[0], q.shape[2], group.shape
    q = q.index_select(1, group.queries).view(heads, count, queries, width).transpose(0, 1)
    k, v = (states.index_select(1, group.keys).view(heads, count, keys, width).transpose(0, 1) for states in (k, v))
    causal = len(group.shared_keys) == 0
    bias = None if causal else group.bias.to(q.dtype)[:, None]
    output = scaled_dot_product_attention(q, k, v, bias, is_causal=causal, scale=scaling, dropout_p=dropout)
    return output.transpose(0, 1).reshape(heads, count * queries, width).index_select(1, group.real_queries)


class _GroupedProducts(torch.autograd.Function):
    """Attention of all groups by matrix products. The backward pass sums the gradients of shared keys."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, scaling: float) -> Tensor:
        heads, _, width = q.shape
        parts: list[Tensor] = []
        saved: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):
            for group in layout.groups:
                count, queries, keys = group.shape
                qs = q.index_select(1, group.queries).mul_(scaling).view(heads * count, queries, width)
                ks, vs = (states.index_select(1, group.keys).view(heads * count, keys, width) for states in (k, v))
                scores = torch.bmm(qs, ks.transpose(1, 2))
                scores = scores.to(torch.promote_types(scores.dtype, torch.float32))  # softmax in bf16 is slow
                scores.view(heads, count, queries, keys).add_(group.bias)
                weights = torch.softmax(scores, dim=-1).to(q.dtype)
                output = torch.bmm(weights, vs).view(heads, count * queries, width)
                parts.append(output.index_select(1, group.real_queries))
                saved += [qs, ks, vs, weights]
        ctx.save_for_backward(*saved)
        ctx.layout, ctx.scaling = layout, scaling
        return _concatenate(parts, q)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        heads, _, width = grad.shape
        dq, dk, dv = torch.zeros((3, *grad.shape), dtype=grad.dtype, device=grad.device)
        start = 0
        saved = ctx.saved_tensors  # activation checkpointing lets them be read once
        for number, group in enumerate(ctx.layout.groups):
            qs, ks, vs, weights = saved[4 * number : 4 * number + 4]
            (count, queries, _), span = group.shape, slice(start, start + len(group.real_queries))
            # queries that are padding get no gradient
            output = grad.new_zeros(heads, count * queries, width).index_copy_(1, group.real_queries, grad[:, span])
            output = output.view(heads * count, queries, width)
            scores = torch.bmm(output, vs.transpose(1, 2))
            scores = torch._softmax_backward_data(scores, weights, -1, weights.dtype)
            d_queries = torch.bmm(scores, ks).view(heads, count * queries, width)
            dq[:, span] = d_queries.index_select(1, group.real_queries).mul_(ctx.scaling)
            for total, d_keys in ((dk, torch.bmm(scores.mT, qs)), (dv, torch.bmm(weights.mT, output))):
                d_keys = d_keys.view(heads, -1, width)
                total[:, span] += d_keys.index_select(1, group.own_keys)
                if len(group.shared_keys):
                    # a shared token gets a gradient from every sequence that shares it
                    index = group.keys[group.shared_keys]
                    total.index_add_(1, index, d_keys.index_select(1, group.shared_keys))
            start = span.stop
        return dq, dk, dv, None, None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
