"""Probes, once per model and on a few tokens, which optimisations of this package a model supports.

An optimisation is used only if its result equals that of the plain forward pass. So a model of an unknown family, or
one that ignores its mask, runs slower but gives correct results.
"""

from collections.abc import Callable
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rlhf.engine.attention import ATTENTION
from rlhf.engine.kernels import optimize
from rlhf.engine.last_layer import make_prunable
from rlhf.engine.passes import accepts_argument, packed_pass

_packing: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_pruning: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_plain_head: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def supports_packing(model: PreTrainedModel) -> bool:
    """Whether packing a batch into one row leaves the hidden states of each sequence unchanged."""
    if model not in _packing:
        optimize(model)
        possible = model.config._attn_implementation == ATTENTION and accepts_argument(model.base_model, "position_ids")
        _packing[model] = possible and _run_probe(model, _packing_agrees)
    return _packing[model]


def supports_pruning(model: PreTrainedModel) -> bool:
    """Whether the last layer can be computed at selected tokens only, see `rlhf.engine.last_layer`."""
    if any(getattr(part, "gradient_checkpointing", False) for part in model.modules()):
        return False  # the backward pass would recompute the layer outside of the context, at all tokens
    if model not in _pruning:
        _pruning[model] = make_prunable(model) and _run_probe(model, _pruning_agrees)
    return _pruning[model]


def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the logits are the output layer applied to the last hidden states, without scaling or capping."""
    if model not in _plain_head:
        _plain_head[model] = model.get_output_embeddings() is not None and _run_probe(model, _head_agrees)
    return _plain_head[model]


def probe(model: PreTrainedModel) -> None:
    """Runs all probes now. Call it before rounding a model's weights, after which exact agreement can't be measured."""
    if supports_packing(model):
        supports_pruning(model)
    has_plain_head(model)


def _packing_agrees(model: PreTrainedModel) -> bool:
    # the probe's sequences are too short to reveal a sliding window, which may not be passed to `attention`
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config).layers):
        return False
    return _agrees(model, torch.arange(8, device=model.device), prune=False)


def _pruning_agrees(model: PreTrainedModel) -> bool:
    return _agrees(model, torch.tensor([1, 4, 6], device=model.device), prune=True)


def _agrees(model: PreTrainedModel, index: Tensor, prune: bool) -> bool:
    """Whether packing two sequences leaves their hidden states at tokens `index` (S,) unchanged."""
    sequences = [probe_ids(model, length) for length in (5, 3)]
    alone = torch.cat([model.base_model(input_ids=ids[None]).last_hidden_state[0] for ids in sequences])
    batch = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_side="left")
    masks = [torch.ones_like(ids) for ids in sequences]
    mask = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True, padding_side="left")
    output, select = packed_pass(model.base_model, batch, mask, index, prune=lambda: prune)
    return close(select(output.last_hidden_state), alone[index])


def _head_agrees(model: PreTrainedModel) -> bool:
    ids = probe_ids(model, 5)[None]
    hidden = model.base_model(input_ids=ids).last_hidden_state
    # the forward pass of the class, because Accelerate replaces that of the instance by one in mixed precision
    return close(model.get_output_embeddings()(hidden), type(model).forward(model, input_ids=ids).logits)


def _run_probe(model: PreTrainedModel, agrees: Callable[[PreTrainedModel], bool]) -> bool:
    """The result of a probe in eval mode and full precision; False if the model raises an error."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            return agrees(model)
    except (NotImplementedError, RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    finally:
        model.train(training)


def probe_ids(model: PreTrainedModel, count: int) -> Tensor:
    size = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    return (torch.arange(count, device=model.device) * 7 + count) % size


def close(result: Tensor, expected: Tensor) -> bool:
    tolerance = min(1e3 * torch.finfo(expected.dtype).eps, 0.05)
    return bool((result - expected).abs().max() <= tolerance * expected.abs().max())
