"""Faster matrix products, memory allocation and GELU for transformers' models on a CPU; results equal up to rounding.

Each is used only if the machine and the model support it.
"""

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu
from transformers import PreTrainedModel
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from rlhf.engine.attention import ATTENTION

TANH_GELU = (NewGELUActivation, FastGELUActivation, GELUTanh)  # three implementations of the same function


def optimize(model: PreTrainedModel) -> None:
    """Replaces the model's GELU and attention by faster ones, in place. Up to rounding, results stay the same."""
    use_onednn_products()
    keep_freed_memory()
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) in TANH_GELU:
                setattr(module, name, GELU())
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)


@cache
def use_onednn_products() -> bool:
    """Makes torch multiply fp32 matrices with oneDNN, if that is exact on this CPU; returns whether it is.

    MKL, torch's default, does not use AVX-512 on AMD's CPUs. oneDNN does, and is twice as fast there. torch calls
    oneDNN only if bf16 is allowed inside fp32 products; then CPUs with matrix units round to bf16. A test product shows
    whether this CPU rounds. If it does, the setting is undone.
    """
    setting = cast(Any, torch.backends.mkldnn).matmul
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    values, identity = torch.full((256, 256), 1 + 2**-20), torch.eye(256)  # bf16 rounds these values to 1
    exact = torch.equal(values @ identity, values) and torch.equal(identity @ values, values)
    if not exact:
        setting.fp32_precision = before
    return exact


@contextmanager
def prepacked_weights(model: PreTrainedModel, rows: int) -> Iterator[None]:
    """A context in which linear layers use weights in oneDNN's own order, prepared for products with about `rows` rows.

    Otherwise oneDNN reorders the weights for every product. In decoding, where products have few rows, that takes
    longer than the product. Results are the same. Weights must not change within the context, and no gradients are
    computed.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    layers: list[Any] = []
    if model.device.type == "cpu" and _can_prepack(dtype):
        layers = [m for m in model.modules() if type(m) in (nn.Linear, Conv1D) and "forward" not in vars(m)]
    for layer in layers:
        layer.forward = _prepacked_forward(layer, rows, dtype)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _prepacked_forward(layer: Any, rows: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """A forward pass for a linear layer, with a reordered copy of its present weights."""
    weight = (layer.weight.t() if type(layer) is Conv1D else layer.weight).detach()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), rows)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x.to(dtype), packed, bias, "none", [], "")


@cache
def _can_prepack(dtype: torch.dtype) -> bool:
    """Whether torch has products with reordered weights, and uses oneDNN for plain products in this precision too."""
    if dtype == torch.float32 and not use_onednn_products():
        return False
    # no random weights, because drawing them would change the random numbers of a resumed run
    layer, x = nn.utils.skip_init(nn.Linear, 16, 24, bias=False), torch.ones(8, 16)
    layer.weight = nn.Parameter(torch.linspace(-0.1, 0.1, 24 * 16).view(24, 16))
    try:
        result = _prepacked_forward(layer, 8, dtype)(x)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((result - layer(x)).abs().max() < 1e2 * torch.finfo(dtype).eps)


@cache
def keep_freed_memory() -> None:
    """Makes glibc keep freed memory instead of returning it to the kernel. Does nothing with other C libraries.

    By default glibc returns blocks above 128 KiB, and the kernel clears their pages when a tensor needs them again.
    That takes up to two thirds of the time of a layer.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def return_freed_memory() -> None:
    """Undoes `keep_freed_memory`, and returns what has been freed. For processes that share out models to save memory."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if (mallopt := getattr(libc, "mallopt", None)) is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        mallopt(mmap_threshold, 2**20)
        mallopt(trim_threshold, 2**20)
    if (malloc_trim := getattr(libc, "malloc_trim", None)) is not None:
        malloc_trim(0)


def bf16_slowdown() -> float:
    """Time of a bf16 matrix product on this CPU relative to fp32: below 1 with bf16 instructions, about 10 without."""

    def seconds(dtype: torch.dtype) -> float:
        a, b, times = torch.ones(512, 256, dtype=dtype), torch.ones(256, 512, dtype=dtype), []
        for _ in range(4):
            started = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - started)
        return min(times)

    return seconds(torch.bfloat16) / seconds(torch.float32)


# --- activations ------------------------------------------------------------------------------------------------------


class GELU(nn.Module):
    """GELU in its tanh form. On a CPU it is x sigmoid(ax + bx³), because torch's tanh takes ten times as long."""

    def forward(self, x: Tensor) -> Tensor:
        return _GELU.apply(x) if x.device.type == "cpu" else gelu(x, approximate="tanh")


class _GELU(torch.autograd.Function):
    """Saves the derivative for the backward pass. torch's GELU saves x and recomputes it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        a = 2 * (2 / torch.pi) ** 0.5
        wide = x if x.dtype == torch.float64 else x.float()
        cubic = torch.addcmul(wide.new_tensor(a), wide, wide, value=0.044715 * a).mul_(wide)
        # a third of x times the cubic's derivative, which is 3 cubic - 2ax
        slope = cubic.add(wide, alpha=-2 * a / 3) if ctx.needs_input_grad[0] else None
        gate = cubic.sigmoid_()
        if slope is not None:
            torch.ops.aten.sigmoid_backward.grad_input(slope, gate, grad_input=slope)  # slope * gate * (1 - gate)
            ctx.save_for_backward(torch.add(gate, slope, alpha=3, out=slope).to(x.dtype))
        return gate.mul_(wide).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return grad * slope
