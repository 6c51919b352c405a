"""Faster arithmetic for transformers' models on a CPU, the same to rounding: products, memory, activations.

What a machine or a model does not allow is left as it is.
"""

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu
from transformers import PreTrainedModel
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from rlhf.attention import ATTENTION

TANH_GELU = (NewGELUActivation, FastGELUActivation, GELUTanh)  # three ways to compute one function


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


@contextmanager
def packed_weights(model: PreTrainedModel, rows: int) -> Iterator[None]:
    """In here, linear layers multiply about `rows` rows by weights that were brought into oneDNN's order beforehand.

    It brings them there for each product, which takes longer than the product where rows are few, as in decoding. The
    result is the same. The weights must not change, and nothing learns.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    changed = []
    if model.device.type == "cpu" and _can_pack(dtype):
        changed = [m for m in model.modules() if type(m) in (nn.Linear, Conv1D) and "forward" not in vars(m)]
    for module in changed:
        module.forward = _packed(module, rows, dtype)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _packed(module: nn.Module, rows: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The forward pass of a linear layer, its weights packed as they are now."""
    weight = (module.weight.t() if type(module) is Conv1D else module.weight).detach()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous(), rows)
    bias = None if module.bias is None else module.bias.detach().to(dtype)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x.to(dtype), packed, bias, "none", [], "")


@cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch has such products, and this CPU uses oneDNN for those of this precision anyway."""
    if dtype == torch.float32 and not products_by_onednn():
        return False
    # no random weights: a run that goes on comes here at another step than one that was never interrupted
    layer, x = nn.utils.skip_init(nn.Linear, 16, 24, bias=False), torch.ones(8, 16)
    layer.weight = nn.Parameter(torch.linspace(-0.1, 0.1, 24 * 16).view(24, 16))
    try:
        found = _packed(layer, 8, dtype)(x)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((found - layer(x)).abs().max() < 1e2 * torch.finfo(dtype).eps)


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
        wide = x if x.dtype == torch.float64 else x.float()
        cubic = torch.addcmul(wide.new_tensor(a), wide, wide, value=0.044715 * a).mul_(wide)
        # x times the cubic's slope is 3 cubic - 2ax; a third of it
        slope = cubic.add(wide, alpha=-2 * a / 3) if ctx.needs_input_grad[0] else None
        gate = cubic.sigmoid_()
        if slope is not None:
            torch.ops.aten.sigmoid_backward.grad_input(slope, gate, grad_input=slope)  # slope gate (1 - gate)
            ctx.save_for_backward(torch.add(gate, slope, alpha=3, out=slope).to(x.dtype))
        return gate.mul_(wide).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return grad * slope
