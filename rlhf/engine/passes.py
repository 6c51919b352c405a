"""One forward pass of a module over a batch, either packed into one row or padded.

Shapes: B rows of L tokens, padded at either end; N tokens without padding, row after row; S selected ones of these.
"""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.engine.last_layer import last_layer_only_at
from rlhf.engine.packing import pack, shared_prefix_lengths
from rlhf.engine.processes import unwrap

ROW_MULTIPLE = 128  # the length of a packed row is rounded up to this multiple so that oneDNN reuses compiled kernels
MAX_PRUNED_SHARE = 0.9  # if a larger share of tokens is selected, pruning the last layer costs more than it saves

# the module's output, and a function that takes one of its tensors and returns the rows of the S selected tokens
Pass = tuple[Any, Callable[[Tensor], Tensor]]


def padded_pass(module: nn.Module, input_ids: Tensor, attention_mask: Tensor, index: Tensor, **kwargs: Any) -> Pass:
    """The output of `module` on a padded batch (B, L), and a function that selects tokens `index` (S,) of a tensor."""
    real = attention_mask.bool()
    output = module(input_ids=input_ids, use_cache=False, **mask_arguments(module, attention_mask), **kwargs)
    return output, lambda tensor: tensor[real][index]


def packed_pass(
    module: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    index: Tensor,
    prefix_row: Tensor | None = None,
    prune: Callable[[], bool] = lambda: False,
    **kwargs: Any,
) -> Pass:
    """The same as `padded_pass`, with the batch packed into one row.

    For `prefix_row` (B,) see `rlhf.engine.forward.hidden_states`. If few tokens are selected and `prune` returns True,
    the last layer's feed-forward block is computed at these only.
    """
    real, lengths = attention_mask.bool(), attention_mask.sum(dim=1)
    prefix_lengths = None if prefix_row is None else shared_prefix_lengths(input_ids, attention_mask, prefix_row)
    layout = pack(lengths, prefix_row, prefix_lengths)
    filler = min(-layout.length % ROW_MULTIPLE, len(lengths) * int(lengths.max()) - layout.length)
    row = layout.row_position.new_zeros(2, layout.length + filler)
    # sequences that share a prefix write the same tokens to the same positions
    row[:, layout.row_position] = torch.stack([input_ids[real], layout.position_ids])
    position = layout.row_position[index]
    selected = position if prefix_row is None else position.unique()
    mask = layout.as_attention_mask()
    with ExitStack() as stack:
        if 0 < len(selected) <= MAX_PRUNED_SHARE * layout.length and prune():
            stack.enter_context(last_layer_only_at(selected, row.shape[1]))
        output = module(input_ids=row[:1], position_ids=row[1:], attention_mask=mask, use_cache=False, **kwargs)
    return output, lambda tensor: tensor[0].index_select(0, position)


# --- arguments of a model ---------------------------------------------------------------------------------------------


def position_ids(attention_mask: Tensor) -> Tensor:
    """Position ids (B, L) that count tokens without padding, so that left padding does not shift them."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def mask_arguments(model: nn.Module, attention_mask: Tensor) -> dict[str, Tensor]:
    """Keyword arguments that mark padding: the mask and, if the model supports it, position ids."""
    positions = {"position_ids": position_ids(attention_mask)} if accepts_argument(model, "position_ids") else {}
    return {"attention_mask": attention_mask, **positions}


def last_logits_only(model: nn.Module) -> dict[str, int]:
    """Keyword arguments that restrict the logits to the last position, if the model supports it."""
    return {"logits_to_keep": 1} if accepts_argument(model, "logits_to_keep") else {}


def accepts_argument(model: nn.Module, argument: str) -> bool:
    """Whether the model's forward pass takes a keyword argument of this name."""
    return argument in _parameters(type(unwrap(model)).forward)


@cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)
