"""Embeddings with more rows than the tokenizer has tokens, mostly to reach a multiple of 64.

The additional rows stand for no token. Their logits become -inf, so they are never sampled, and add nothing to the
softmax of sampling, update and reference.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from rlhf.engine.processes import unwrap


def limit_vocabulary(model: nn.Module, size: int) -> None:
    """Gives all but the first `size` token ids probability 0, in every function of this package."""
    model.vocabulary_limit = size  # type: ignore[assignment]


def only_tokens(model: nn.Module, logits: Tensor) -> Tensor:
    """The logits (..., V), in place, with -inf beyond the model's `vocabulary_limit`, if it has one."""
    limit = cast(int | None, getattr(unwrap(model), "vocabulary_limit", None))
    return logits if limit is None or limit >= logits.shape[-1] else _Exclude.apply(logits, limit)


class _Exclude(torch.autograd.Function):
    """Fills the end in place. Slicing or `masked_fill` would copy all logits, in both directions."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, limit: int) -> Tensor:
        logits[..., limit:] = -torch.inf
        ctx.mark_dirty(logits)
        return logits

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None  # the gradient of a log-probability is already 0 there
