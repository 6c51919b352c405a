"""Attention in a packed row by torch's kernel for sequences of different lengths, which computes no padding.

Shapes: H heads of width D; L tokens of the packed row; B sequences.
"""

from typing import Any, cast

import torch
from torch import Tensor

from rlhf.engine.packing import PackedLayout

VARLEN = False  # off, because it has not been measured on a GPU


def uses_varlen(q: Tensor, layout: PackedLayout, dropout: float) -> bool:
    """Whether a row with queries `q` (H, L, D) is computed here: switched on, supported, and no prefix is shared."""
    shared = any(len(group.shared_keys) for group in layout.groups)
    return VARLEN and not dropout and not shared and _kernel_accepts(q)


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, scaling: float) -> Tensor:
    """Causal attention (H, tokens, D) within the sequences of a packed row (H, L, D), without filler at its end."""
    dtype = _half_precision(q)
    # the kernel takes tokens before heads
    states = (tensor[:, : layout.length].to(dtype).transpose(0, 1) for tensor in (q, k, v))
    bounds, longest = layout.bounds, layout.longest
    return _kernel(*states, bounds, bounds, longest, longest, scale=scaling, window_size=(-1, 0)).transpose(0, 1)


def _half_precision(q: Tensor) -> torch.dtype:
    """The precision of the computation: autocast's, as for torch's other attention kernels, else that of the states."""
    kind = q.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else q.dtype


def _kernel_accepts(q: Tensor) -> bool:
    half = _half_precision(q) in (torch.float16, torch.bfloat16)
    return q.device.type == "cuda" and half and q.shape[2] % 8 == 0 and q.shape[2] <= 256


def _kernel(*args: Any, **kwargs: Any) -> Tensor:
    """torch.nn.attention.varlen.varlen_attn, with the arguments of torch 2.13."""
    from torch.nn.attention.varlen import varlen_attn

    return cast(Tensor, varlen_attn(*args, **kwargs))
