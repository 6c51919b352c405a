"""The memory of a pass and of decoding, in bytes.

What a layer keeps for its backward pass depends on the family of the model: norms, gates, experts. So that is measured on
a few tokens of the model itself. It grows with the tokens and, where attention is computed by matrix products, with the
square of the length of a sequence. The rest follows from the model's configuration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from rlhf.engine.attention import MAX_PRODUCT_LENGTH
from rlhf.engine.decoding import buffer_length
from rlhf.engine.forward import hidden_states, selected_states
from rlhf.engine.kernels import use_onednn_products
from rlhf.engine.logprobs import MAX_LOGITS
from rlhf.engine.support import has_plain_head, probe_ids, supports_packing

PROBE_LENGTH = 32  # tokens; at most half of the model's context
# arrays of logits that exist at once: the log-probabilities, and the gradients of both
LOGIT_COPIES = 3
SAMPLING_COPIES = 6  # logits, log-probabilities, probabilities, their sum in double precision, an intermediate result


@dataclass(frozen=True)
class PassMemory:
    """What a training pass of a model keeps for its backward pass, in bytes."""

    fixed: float
    token: float
    pair: float  # for each pair of tokens of a sequence
    layers: int
    vocabulary: int  # of the output layer; 0 for a scorer
    logits_in_pieces: bool
    packed: bool  # padding is not computed
    width: int  # of the hidden states
    checkpointed: bool = False  # layers are computed again in the backward pass

    def peak(self, lengths: Sequence[float], selected: float, shared: float = 0.0) -> float:
        """The most that exists at once for sequences of these lengths, with logits at `selected` tokens.

        `shared` tokens are computed for another sequence too, and counted in `lengths`.
        """
        if not len(lengths):
            return 0.0
        if not self.packed:
            lengths, shared = [max(lengths)] * len(lengths), 0.0
        pairs = sum(length**2 for length in lengths if length <= MAX_PRODUCT_LENGTH)
        tokens = sum(lengths) - shared
        kept = self.fixed + self.token * tokens + self.pair * pairs
        layer = kept / self.layers
        if self.checkpointed:
            kept = layer + 4.0 * tokens * self.width * self.layers
        # the backward pass of a layer needs about as much again as the layer keeps
        return kept + layer + self._logits(selected if self.logits_in_pieces else sum(lengths))

    def forward_peak(self, lengths: Sequence[float], selected: float) -> float:
        """The same for a pass without gradients, in which a layer keeps nothing for a later one."""
        logits = self._logits(selected)
        return (self.peak(lengths, selected) - logits) / (self.layers + 1) + logits

    def _logits(self, selected: float) -> float:
        at_once = min(selected, max(1, MAX_LOGITS // max(1, self.vocabulary))) if self.logits_in_pieces else selected
        return 4.0 * LOGIT_COPIES * self.vocabulary * at_once


def pass_memory(model: PreTrainedModel, head: bool = True) -> PassMemory:
    """The memory of a training pass, measured on about a hundred tokens; `head`: the pass computes logits.

    Random numbers, weights and gradients stay as they are.
    """
    config = model.config.get_text_config()
    length = max(2, min(PROBE_LENGTH, (getattr(config, "max_position_embeddings", None) or 2 * PROBE_LENGTH) // 2))
    with torch.random.fork_rng():
        one, two, long = (_kept(model, *shape) for shape in ((1, length), (2, length), (1, 2 * length)))
    # one = fixed + a L + b L², two = fixed + 2 a L + 2 b L², long = fixed + 2 a L + 4 b L²
    pair = max(0.0, (long - two) / 2) / length**2
    token = (two - one) / length - pair * length
    return PassMemory(
        fixed=max(0.0, 2 * one - two),
        token=token,
        pair=pair,
        layers=config.num_hidden_layers,
        vocabulary=_vocabulary(model) if head else 0,
        logits_in_pieces=has_plain_head(model),
        packed=supports_packing(model),
        width=config.hidden_size,
    )


def _kept(model: PreTrainedModel, rows: int, length: int) -> float:
    """The bytes that a pass over `rows` sequences of `length` tokens keeps, apart from weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = probe_ids(model, length).expand(rows, length).contiguous()
    index = torch.arange(rows * length, device=ids.device)
    # as the pass itself, which computes all logits of a model whose output layer is not a plain one
    compute = hidden_states if has_plain_head(model) or model.get_output_embeddings() is None else selected_states
    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        compute(model, ids, torch.ones_like(ids), index)
    return float(sum(kept.values()))


def decoding_memory(model: PreTrainedModel, rows: float, prompt: float, response: int) -> tuple[float, float]:
    """Bytes of the cache of keys and values for `rows` responses, and of everything else that decoding needs.

    The rest is the reordered copy of the weights, the logits of a token, and the pass over the prompts.
    """
    config = model.config.get_text_config()
    hidden = config.hidden_size
    try:
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or hidden // heads
        key_width = (getattr(config, "num_key_value_heads", None) or heads) * width
        inner = int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden)
    except (AttributeError, TypeError, RuntimeError):  # layers of several kinds
        heads, key_width, inner = max(1, hidden // 64), hidden, 4 * hidden
    size = torch.get_autocast_dtype(model.device.type).itemsize if torch.is_autocast_enabled(model.device.type) else 4
    cache = 2.0 * rows * config.num_hidden_layers * key_width * buffer_length(round(prompt) + response) * size
    prompts = 4.0 * rows * prompt * (4 * hidden + 2 * inner + heads * min(prompt, MAX_PRODUCT_LENGTH))
    packed = 0.0
    if model.device.type == "cpu" and (size < 4 or use_onednn_products()):
        packed = float(size * sum(p.numel() for p in model.parameters() if p.dim() > 1))
    return cache, packed + max(prompts, 4.0 * SAMPLING_COPIES * rows * _vocabulary(model))


def weight_memory(models: Sequence[nn.Module], trained: bool = False) -> float:
    """Bytes of the parameters of some models, those of a shared trunk once; with `trained`, only of trained ones."""
    tensors = {p.data_ptr(): p for model in models for p in model.parameters() if p.requires_grad or not trained}
    return float(sum(p.numel() * p.element_size() for p in tensors.values()))


def _vocabulary(model: PreTrainedModel) -> int:
    return cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
