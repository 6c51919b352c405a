"""Faster arithmetic for transformers' models on a CPU, the same to rounding: products, memory, activations, attention.

What a machine or a model does not allow is left as it is. Shapes: B sequences of L tokens, H heads of width D; N tokens
without padding.
"""

import ctypes
import sys
import time
from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "rlhf"  # the name of `attention` among transformers' implementations
# up to this many tokens a row, attention by plain products is faster on a CPU than the fused kernel, whose memory is less
PLAIN_LENGTH = 512
TANH_GELU = (NewGELUActivation, FastGELUActivation, GELUTanh)  # three ways to compute one function
LOWEST = torch.finfo(torch.float32).min  # not -inf: a row in which all is hidden would be no number
SPECIAL = ("sliding_window", "softcap", "s_aux", "position_bias")  # what a model may want of attention besides
ROUND = 8  # lengths are rounded up to a multiple of it: oneDNN compiles products anew for each new shape


def speed_up(model: PreTrainedModel) -> None:
    """Has a model use what this file has. It computes the same, and what is saved of it does not change."""
    products_by_onednn()
    keep_freed_memory()
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) in TANH_GELU:
                setattr(module, name, GELU())
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)


@cache
def products_by_onednn() -> bool:
    """Has oneDNN multiply fp32 matrices, on CPUs on which it does so in fp32; whether it does.

    MKL, torch's default, has no AVX-512 for AMD's CPUs: there oneDNN is twice as fast. Its door is the setting that
    allows bf16 in between, and only a CPU with matrix units of its own makes use of the permission. Whether this one
    does is seen from a product that bf16 would round; then the setting is taken back.
    """
    setting, before = torch.backends.mkldnn.matmul, torch.backends.mkldnn.matmul.fp32_precision
    setting.fp32_precision = "bf16"
    fine = torch.full((256, 256), 1 + 2**-20)
    exact = all(torch.equal(one @ other, fine) for one, other in ((fine, torch.eye(256)), (torch.eye(256), fine)))
    if not exact:
        setting.fp32_precision = before
    return exact


@cache
def keep_freed_memory() -> None:
    """Has the C library keep memory that tensors have given back, which they ask for again at once.

    glibc returns blocks of more than 128 KiB to the kernel each time, and the kernel has to clear their pages again: up
    to two thirds of the time of a layer. Other C libraries have no such setting, and are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # names of malloc.h
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def slowness_of_bf16() -> float:
    """How many times as long a product of matrices takes in bf16 as in fp32 on this CPU: below 1 if it has instructions
    for bf16, 10 and more if it has to make do without."""

    def seconds(dtype: torch.dtype) -> float:
        one, other, found = torch.ones(512, 256, dtype=dtype), torch.ones(256, 512, dtype=dtype), []
        for _ in range(4):
            started = time.perf_counter()
            one @ other
            found.append(time.perf_counter() - started)
        return min(found)

    return seconds(torch.bfloat16) / seconds(torch.float32)


# --- activations ------------------------------------------------------------------------------------------------------


class GELU(nn.Module):
    """GELU in its tanh form. On a CPU as x sigmoid(ax + bx³), which is the same: torch's tanh takes ten times as long."""

    def forward(self, x: Tensor) -> Tensor:
        return _GELU.apply(x) if x.device.type == "cpu" else gelu(x, approximate="tanh")


class _GELU(torch.autograd.Function):
    """Keeps its slope for the gradient, where torch keeps x and begins anew."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        a = 2 * (2 / torch.pi) ** 0.5
        b = 0.044715 * a
        wide = x if x.dtype == torch.float64 else x.float()
        square = wide * wide
        slope = square * (3 * b) if ctx.needs_input_grad[0] else None
        gate = square.mul_(b).add_(a).mul_(wide).sigmoid_()
        if slope is not None:
            slope.add_(a).mul_(wide)
            torch.ops.aten.sigmoid_backward.grad_input(slope, gate, grad_input=slope)  # slope gate (1 - gate)
            ctx.save_for_backward(slope.add_(gate).to(x.dtype))
        return gate.mul_(wide).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return grad * slope


# --- attention --------------------------------------------------------------------------------------------------------


def layout(lengths: Tensor, first: Tensor | None = None, shared: Tensor | None = None) -> Tensor:
    """What `attention` is given instead of a mask where sequences lie one after the other in one row, (1, 2, B, L).

    Of sequences of `lengths` (B,): [0, 0, b, l] is where token l of sequence b lies, or 0 where it has none; [0, 1], read
    as one row, is where of the first table each token of the row is found. Tokens of the row beyond the sequences, as
    many as there is padding at most, are found at padding: what they are is asked by nobody and teaches nothing.

    Where sequence b has its first `shared` (B,) tokens in common with sequence `first` (B,), which shares none itself,
    they lie in the row once, as tokens of that one. The result is then (1, 3, B, L), with 1 in [0, 2] where a token is met
    again, and the row may hold any number of tokens beyond the sequences.
    """
    batch, longest = len(lengths), -(-int(lengths.max()) // ROUND) * ROUND
    place = torch.arange(longest, device=lengths.device)
    real = place < lengths[:, None]
    own = real if first is None else real & (place >= shared[:, None])
    where = own.flatten().nonzero().squeeze(1)
    table = torch.zeros(2 if first is None else 3, batch * longest, dtype=torch.long, device=lengths.device)
    table[0, where] = torch.arange(len(where), device=lengths.device)
    table[1] = real.flatten().int().argmin()  # padding, if there is any
    table[1, : len(where)] = where
    table = table.view(1, -1, batch, longest)
    if first is not None:
        again = real & ~own
        table[0, 0] = torch.where(again, table[0, 0, first], table[0, 0])
        table[0, 2] = again
    return table


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
    """Attention for transformers' models: of rows with a mask as theirs, or of one row without padding by a `layout`.

    `query` is (B, H, L, D), `key` and `value` may have fewer heads and more tokens; the result is (B, L, H, D). Raises
    NotImplementedError for a layout where the model wants more than causal attention.
    """
    packed = attention_mask is not None and attention_mask.dtype == torch.long
    special = [name for name in SPECIAL if kwargs.get(name) is not None]
    causal = getattr(module, "is_causal", True) if kwargs.get("is_causal") is None else kwargs["is_causal"]
    if packed and (special or not causal):
        raise NotImplementedError(f"a row without padding, and {special or 'attention to what follows'}")
    if special or not (packed or _plain(query, key.shape[2])):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    if repeats := query.shape[1] // key.shape[1] - 1:
        key, value = (states.repeat_interleave(repeats + 1, dim=1) for states in (key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if packed:
        return _of_one_row(query, key, value, attention_mask, scaling, dropout).transpose(1, 2), None
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
        if bias.dtype == torch.bool:
            bias = torch.zeros(bias.shape, device=bias.device).masked_fill(~bias, LOWEST)
        scores += bias  # in place; masked_fill with a mask that is broadcast takes ten times as long
    weights = torch.nn.functional.dropout(torch.softmax(scores, dim=-1).to(v.dtype), dropout)
    return torch.bmm(weights.flatten(0, 1), v.flatten(0, 1)).view(q.shape)


def _of_one_row(q: Tensor, k: Tensor, v: Tensor, layout: Tensor, scaling: float, dropout: float) -> Tensor:
    """Causal attention (1, H, N, D) of sequences that lie one after the other."""
    heads, tokens, width = q.shape[1:]
    batch, longest = layout.shape[2:]
    there, back, once = layout[0, 0].flatten(), layout[0, 1].flatten()[:tokens], layout.shape[1] == 2
    q, k, v = (_Spread.apply(s[0], there, back, once).view(heads, batch, longest, width) for s in (q, k, v))
    if _plain(q, longest):
        output = _by_products(q, k, v, _causal(longest, q.device), scaling, dropout)
    else:
        output = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, dropout_p=dropout)
    return _Gather.apply(output.reshape(heads, batch * longest, width), back)[None]


class _Spread(torch.autograd.Function):
    """From one row (H, N, D) to the places of a table (H, B * L, D); nothing comes back from the places of padding."""

    @staticmethod
    def forward(ctx, states: Tensor, there: Tensor, back: Tensor, once: bool) -> Tensor:
        ctx.once, ctx.shape = once, states.shape
        ctx.save_for_backward(back if once else there)
        return states.index_select(1, there)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (where,) = ctx.saved_tensors
        if ctx.once:
            return grad.index_select(1, where), None, None, None
        # a token that many sequences begin with learns from all of them; of padding, which is 0, none
        return grad.new_zeros(ctx.shape).index_add_(1, where, grad), None, None, None


class _Gather(torch.autograd.Function):
    """The way back."""

    @staticmethod
    def forward(ctx, states: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        ctx.shape = states.shape
        return states.index_select(1, back)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (back,) = ctx.saved_tensors
        spread = grad.new_zeros(ctx.shape)  # what padding does is asked by nobody, and teaches nothing
        return spread.index_add_(1, back, grad), None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
