"""Pruning: the last layer's feed-forward block, two thirds of a layer, is computed at selected tokens only.

No token attends to the last layer's output at another token. So the block is needed only where the output is used: at
the tokens of a response but not of its prompt, or, for a reward model, at the last token of a sequence. Earlier layers
are computed at every token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

TOKEN_MULTIPLE = 128  # the number of tokens is rounded up to this multiple so that oneDNN reuses compiled kernels

_selection: ContextVar[tuple[Tensor, int] | None] = ContextVar("selection", default=None)


@contextmanager
def last_layer_only_at(index: Tensor, length: int) -> Iterator[None]:
    """A context in which prunable models compute the block only at tokens `index` (S,) of a row of `length` tokens.

    The entries of `index` are distinct. The last hidden states at other tokens are wrong and must not be used.
    """
    token = _selection.set((index, length))
    try:
        yield
    finally:
        _selection.reset(token)


def make_prunable(model: PreTrainedModel) -> bool:
    """Adds the pruning hooks to the model's last feed-forward block. False if there is not exactly one such block."""
    count = model.config.get_text_config().num_hidden_layers
    stacks = [part for part in model.base_model.modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    mlp = getattr(stacks[0][-1], "mlp", None) if len(stacks) == 1 else None
    if not isinstance(mlp, nn.Module):
        return False
    if _gather not in mlp._forward_pre_hooks.values():
        mlp.register_forward_pre_hook(_gather)
        mlp.register_forward_hook(_scatter)
    return True


def _gather(mlp: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
    if (selection := _selection.get()) is None:
        return None
    (states,), (index, _) = inputs, selection
    return (states.index_select(1, pad(index, (0, -len(index) % TOKEN_MULTIPLE))),)


def _scatter(mlp: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
    if (selection := _selection.get()) is None:
        return None
    index, length = selection
    row = output.new_zeros(1, length, output.shape[2])
    return row.index_copy(1, index, output[:, : len(index)])
