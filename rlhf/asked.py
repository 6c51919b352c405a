"""The last layer's feed-forward part, two thirds of a layer, for those tokens only whose state is asked for.

No token sees what the last layer makes of another, so that what nobody asks for need not be computed: of a prompt that
is answered, say, or of all that a reward model reads before the last token. In the layers before, all are needed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

ROUND = 128  # rows are filled up to a multiple of it: oneDNN compiles products anew for each new shape

_asked: ContextVar[tuple[Tensor, int] | None] = ContextVar("asked", default=None)


@contextmanager
def only(at: Tensor, count: int) -> Iterator[None]:
    """In here, models that `listen` to it are asked for the tokens `at` (R,) of a row of `count`, for each but once.

    The states that they return for the others are not theirs.
    """
    token = _asked.set((at, count))
    try:
        yield
    finally:
        _asked.reset(token)


def listen(model: PreTrainedModel) -> bool:
    """Has a model's last layer look at what is asked for. Whether there is such a layer, with one feed-forward part."""
    count = model.config.get_text_config().num_hidden_layers
    stacks = [part for part in model.base_model.modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    mlp = getattr(stacks[0][-1], "mlp", None) if len(stacks) == 1 else None
    if not isinstance(mlp, nn.Module):
        return False
    if _take not in mlp._forward_pre_hooks.values():
        mlp.register_forward_pre_hook(_take)
        mlp.register_forward_hook(_put_back)
    return True


def _take(mlp: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
    if (asked := _asked.get()) is None:
        return None
    (states,), (at, _) = inputs, asked
    return (states.index_select(1, pad(at, (0, -len(at) % ROUND))),)


def _put_back(mlp: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
    if (asked := _asked.get()) is None:
        return None
    at, count = asked
    row = output.new_zeros(1, count, output.shape[2])
    return row.index_copy(1, at, output[:, : len(at)])
