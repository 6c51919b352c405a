"""Forward passes over a batch of sequences: without its padding where the model allows it, states and logits where asked.

Shapes: B sequences of L tokens, with padding at either end; N tokens without it, row after row, R of which are asked for;
w width; V vocabulary.
"""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rlhf import asked
from rlhf.attention import ATTENTION, lay
from rlhf.kernels import speed_up

# a row without padding is filled up to a multiple of it: oneDNN compiles products anew for each new shape
ROUND = 128
WORTH = 0.9  # share of the tokens that must be asked for at most for the last layer to leave the others out


@dataclass
class States:
    """What a causal language model made of a batch, at the tokens that were asked for."""

    ids: Tensor  # (N,) the tokens
    at: Tensor  # (R,) the numbers of those whose state was asked for
    hidden: Tensor  # (R, w) their last hidden states
    logits: Callable[[slice], Tensor]  # of some of these, (..., V)


def states(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, at: Tensor, first: Tensor | None = None
) -> States:
    """One pass of a causal language model over a batch (B, L): its states after the tokens numbered `at` (R,).

    `first` is that of `hidden_states`.
    """
    ids, inner = input_ids[attention_mask.bool()], unwrapped(model)
    if not _head_is_all(inner):
        output, rows = _run(model, inner, input_ids, attention_mask, at, first, output_hidden_states=True)
        all_logits = rows(output.logits)
        return States(ids, at, rows(output.hidden_states[-1]), lambda some: all_logits[some])
    if model is inner:
        hidden = hidden_states(model, input_ids, attention_mask, at, first)
    else:  # gradients are exchanged between processes only of what goes through the whole model
        output, rows = _run(
            model, inner, input_ids, attention_mask, at, first, output_hidden_states=True, **last_logits(inner, 1)
        )
        hidden = rows(output.hidden_states[-1])
    head = inner.get_output_embeddings()
    return States(ids, at, hidden, lambda some: head(hidden[some]))


def last_states(model: PreTrainedModel, input_ids: Tensor, **inputs) -> tuple[Tensor, Tensor]:
    """The state (B, w) after the last token of each row, and its logits (B, V); `inputs` are the model's own."""
    if _head_is_all(model):
        hidden = model.base_model(input_ids=input_ids, **inputs).last_hidden_state[:, -1]
        return hidden, model.get_output_embeddings()(hidden)
    output = model(input_ids=input_ids, output_hidden_states=True, **inputs, **last_logits(model, 1))
    return output.hidden_states[-1][:, -1], output.logits[:, -1]


def hidden_states(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, at: Tensor, first: Tensor | None = None
) -> Tensor:
    """The last hidden state (R, w) after the tokens numbered `at` (R,) of the N of a batch (B, L).

    `first` (B,) names a row of the batch for each, which must name itself: what a row begins with as that one does goes
    through the model once, so that K completions read their prompt once. The result is the same, to rounding. A model that
    can't do so sees each row whole.
    """
    output, rows = _run(model.base_model, model, input_ids, attention_mask, at, first)
    return rows(output.last_hidden_state)


def _run(
    module: nn.Module,
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    at: Tensor,
    first: Tensor | None = None,
    **kwargs,
):
    """The output of `module`, which is `model` or around or within it, and a function from its tensors to rows `at`."""
    real = attention_mask.bool()
    if not packs(model):
        output = module(input_ids=input_ids, use_cache=False, **with_positions(module, attention_mask), **kwargs)
        return output, lambda tensor: tensor[real][at]
    lengths = attention_mask.sum(dim=1)
    shared = None if first is None else alike(input_ids, attention_mask, first)
    layout = lay(lengths, first, shared)
    filler = min(-layout.tokens % ROUND, len(lengths) * int(lengths.max()) - layout.tokens)
    row = layout.place.new_zeros(2, layout.tokens + filler)
    # what sequences have in common is written there by each of them, the same
    row[:, layout.place] = torch.stack([input_ids[real], layout.position])
    place = layout.place[at]
    wanted = place if shared is None else place.unique()
    with ExitStack() as stack:
        if 0 < len(wanted) <= WORTH * layout.tokens and asks(model):
            stack.enter_context(asked.only(wanted, row.shape[1]))
        output = module(
            input_ids=row[:1], position_ids=row[1:], attention_mask=layout.as_mask(), use_cache=False, **kwargs
        )
    return output, lambda tensor: tensor[0].index_select(0, place)


def alike(input_ids: Tensor, attention_mask: Tensor, first: Tensor) -> Tensor:
    """How many tokens (B,) each row of a batch (B, L) begins with alike with row `first` (B,); 0 if that is itself."""
    real = torch.arange(input_ids.shape[1], device=input_ids.device) < attention_mask.sum(dim=1, keepdim=True)
    ids = torch.zeros_like(input_ids).masked_scatter(real, input_ids[attention_mask.bool()])
    same = ((ids == ids[first]) & real & real[first]).long().cumprod(dim=1).sum(dim=1)
    return same.where(first != torch.arange(len(first), device=first.device), 0)


# --- what a model allows ----------------------------------------------------------------------------------------------

_packing: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_asking: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_headed: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def packs(model: PreTrainedModel) -> bool:
    """Whether the model sees sequences that lie one after the other in a row as it sees each alone. It is tried once."""
    if model not in _packing:
        speed_up(model)
        can = model.config._attn_implementation == ATTENTION and accepts(model.base_model, "position_ids")
        _packing[model] = can  # for what is tried
        _packing[model] = _packing[model] and _tried(model, _packs_two)
    return _packing[model]


def asks(model: PreTrainedModel) -> bool:
    """Whether the model's last layer can be computed for some tokens only (`rlhf.asked`). It is tried once."""
    if any(getattr(part, "gradient_checkpointing", False) for part in model.modules()):
        return False  # what is computed again, in the backward pass, would be all of them
    if model not in _asking:
        _asking[model] = asked.listen(model)  # for what is tried
        _asking[model] = _asking[model] and _tried(model, _asks_for_three)
    return _asking[model]


def _head_is_all(model: PreTrainedModel) -> bool:
    """Whether logits are the output layer's product with the last hidden states, and nothing else. It is tried once."""
    if model not in _headed:
        _headed[model] = model.get_output_embeddings() is not None and _tried(model, _has_plain_head)
    return _headed[model]


def try_all(model: PreTrainedModel) -> None:
    """Finds out all of this now: for one whose weights are about to be rounded, by which its answers could not be told."""
    if packs(model):
        asks(model)
    _head_is_all(model)


def _packs_two(model: PreTrainedModel) -> bool:
    # a layer with a window, say, shows it with longer sequences than are tried, and may not tell attention of it
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config).layers):
        return False
    return _agrees(model, torch.arange(8, device=model.device))


def _asks_for_three(model: PreTrainedModel) -> bool:
    return _agrees(model, torch.tensor([1, 4, 6], device=model.device))


def _agrees(model: PreTrainedModel, at: Tensor) -> bool:
    """Whether the model says of two sequences in one row what it says of each alone."""
    alone = [_some_ids(model, length) for length in (5, 3)]
    expected = torch.cat([model.base_model(input_ids=ids[None]).last_hidden_state[0] for ids in alone])[at]
    batch = torch.nn.utils.rnn.pad_sequence(alone, batch_first=True, padding_side="left")
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in alone], True, padding_side="left")
    return _close(hidden_states(model, batch, mask, at), expected)


def _has_plain_head(model: PreTrainedModel) -> bool:
    ids = _some_ids(model, 5)[None]
    hidden = model.base_model(input_ids=ids).last_hidden_state
    # as its class has it: Accelerate puts a forward pass in mixed precision in its place
    return _close(model.get_output_embeddings()(hidden), type(model).forward(model, input_ids=ids).logits)


def _tried(model: PreTrainedModel, trial: Callable[[PreTrainedModel], bool]) -> bool:
    """What a trial says; what the model can't do at all is no."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            return trial(model)
    except (NotImplementedError, RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    finally:
        model.train(training)


def _some_ids(model: PreTrainedModel, count: int) -> Tensor:
    size = model.get_input_embeddings().num_embeddings
    return (torch.arange(count, device=model.device) * 7 + count) % size


def _close(one: Tensor, other: Tensor) -> bool:
    allowed = min(1e3 * torch.finfo(other.dtype).eps, 0.05)
    return bool((one - other).abs().max() <= allowed * other.abs().max())


# --- the arguments of a model -----------------------------------------------------------------------------------------


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, which hides it."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions (B, L) that count real tokens only, so that padding on the left does not change what a model says."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def with_positions(model: nn.Module, attention_mask: Tensor) -> dict[str, Any]:
    """The keyword arguments that tell `model` where padding is: the mask, and positions if it takes them."""
    positions = {"position_ids": position_ids(attention_mask)} if accepts(model, "position_ids") else {}
    return {"attention_mask": attention_mask, **positions}


def last_logits(model: nn.Module, count: int) -> dict[str, int]:
    """The keyword argument that spares `model` the logits of all but its last `count` positions, if it takes one."""
    return {"logits_to_keep": count} if accepts(model, "logits_to_keep") else {}


def accepts(model: nn.Module, argument: str) -> bool:
    """Whether the model's forward pass takes a keyword argument of this name."""
    return argument in _parameters(type(unwrapped(model)))


@cache
def _parameters(model_class: type) -> frozenset[str]:
    return frozenset(inspect.signature(model_class.forward).parameters)
