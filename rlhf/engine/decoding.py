"""Decoding with a cache of keys and values: prompts are read once each, and finished rows are dropped.

The cache lies in buffers that grow by blocks, and attention sees the whole buffer under a mask. A slice would be copied at
every token, and would have a new shape each time, for which oneDNN compiles a new kernel. Models whose attention does not
take such a mask keep transformers' own cache.

Shapes: B rows; G of them that still grow; P prompt length; W hidden width; V vocabulary.
"""

from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rlhf import InputError
from rlhf.engine.forward import last_states
from rlhf.engine.kernels import prepacked_weights
from rlhf.engine.passes import accepts, mask_arguments
from rlhf.engine.support import supports_packing

BLOCK = 32  # tokens by which a buffer grows
ROW_MULTIPLE = 8  # the number of rows is rounded up to this multiple so that oneDNN reuses compiled kernels
MAX_KEPT_SHARE = 0.85  # with more of the rows left, dropping the others costs more than it saves: it copies the cache


class Decoder:
    """Reads prompts (B, P), then one token a step for each row that still grows.

        with Decoder(model, input_ids, attention_mask) as decoder:
            while True:
                hidden, logits = decoder.forward()      # for the rows decoder.rows
                ...
                decoder.append(tokens)
                decoder.drop(finished)

    Weights must not change within the context. Raises InputError for a model that keeps another state than keys and
    values.
    """

    def __init__(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor):
        if not accepts(model, "past_key_values") and (accepts(model, "cache_params") or accepts(model, "state")):
            raise InputError(f"{type(model).__name__} has no cache of keys and values, which sampling needs")
        self.model, self.cache = model, new_cache(model)
        self.masks_buffer, self.can_drop = supports_packing(model), can_select(self.cache)
        self.rows = torch.arange(len(input_ids), device=input_ids.device)  # (G,) the rows that still grow
        self.next_ids, self.attention_mask = input_ids, attention_mask.long()
        self.prompt_of: Tensor | None = None  # (B,) where equal prompts are read once: which of them is each row's
        if self.can_drop:
            self.next_ids, self.attention_mask, self.prompt_of = distinct_prompts(self.next_ids, self.attention_mask)
        self.contexts = ExitStack()

    def __enter__(self) -> "Decoder":
        self.contexts.enter_context(prepacked_weights(self.model, len(self.rows)))
        self.contexts.enter_context(torch.no_grad())
        return self

    def __exit__(self, *error: Any) -> None:
        self.contexts.close()

    def forward(self) -> tuple[Tensor, Tensor]:
        """The hidden state (G, W) and the logits (G, V) after the last token of each row that still grows."""
        inputs = mask_arguments(self.model, self.attention_mask)
        if self.masks_buffer and self.cache.get_seq_length():
            # the mask that the model would build in each layer; it hides the empty rest of the buffer
            empty = buffer_length(self.attention_mask.shape[1]) - self.attention_mask.shape[1]
            inputs["attention_mask"] = pad(self.attention_mask, (0, empty)).bool()[:, None, None]
        if "position_ids" in inputs:
            inputs["position_ids"] = inputs["position_ids"][:, -self.next_ids.shape[1] :]
        hidden, logits = last_states(self.model, self.next_ids, past_key_values=self.cache, use_cache=True, **inputs)
        if self.prompt_of is not None:
            index, self.prompt_of = self.prompt_of, None
            self.cache.batch_select_indices(index)
            hidden, logits, self.attention_mask = hidden[index], logits[index], self.attention_mask[index]
        return hidden, logits

    def append(self, tokens: Tensor) -> None:
        """The token (G,) that each row reads next."""
        self.next_ids = tokens[:, None]
        self.attention_mask = torch.cat([self.attention_mask, torch.ones_like(self.attention_mask[:, :1])], dim=1)

    def drop(self, finished: Tensor) -> None:
        """Drops the rows that are `finished` (G,), once there are enough of them; a few stay to round the number up."""
        growing = (~finished).nonzero().squeeze(1)
        count = -(-len(growing) // ROW_MULTIPLE) * ROW_MULTIPLE
        if self.can_drop and count <= MAX_KEPT_SHARE * len(self.rows):
            kept = torch.cat([growing, finished.nonzero().squeeze(1)[: count - len(growing)]])
            self.cache.batch_select_indices(kept)
            self.rows, self.next_ids = self.rows[kept], self.next_ids[kept]
            self.attention_mask = self.attention_mask[kept]


def distinct_prompts(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The distinct prompts of (B, P) and their masks, and which of them each row has (B,); None if all differ."""
    both = torch.stack([input_ids, attention_mask], dim=1)
    distinct, prompt_of = torch.unique(both.cpu(), dim=0, return_inverse=True)
    if len(distinct) == len(both):
        return input_ids, attention_mask, None
    ids, mask = distinct.to(both.device).unbind(dim=1)
    return ids, mask, prompt_of.to(both.device)


# --- the cache --------------------------------------------------------------------------------------------------------


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """The model's own kind of cache; its ordinary layers grow by blocks if its attention takes our mask."""
    cache = DynamicCache(config=model.config)
    if supports_packing(model):
        cache.layers = [BlockLayer() for _ in cache.layers]
    return cache


def can_select(cache: DynamicCache) -> bool:
    """Whether rows can be taken out of the cache: a layer with any other state would keep that of all rows."""
    return all(type(layer) in (BlockLayer, DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def buffer_length(length: int) -> int:
    """How many tokens a buffer has room for when it holds `length` of them."""
    return -(-length // BLOCK) * BLOCK


class BlockLayer(DynamicLayer):
    """transformers' DynamicLayer in buffers (B, H, buffer length, D); all calls but the first return the whole buffer."""

    length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        start, self.length = self.length, self.length + key_states.shape[2]
        keys, values = cast(Tensor, self.keys), cast(Tensor, self.values)
        if missing := buffer_length(self.length) - keys.shape[2]:
            # zeros: uninitialised memory may hold NaN, which a mask does not hide
            keys, values = (pad(buffer, (0, 0, 0, missing)) for buffer in (keys, values))
            self.keys, self.values = keys, values
        keys[:, :, start : self.length] = key_states
        values[:, :, start : self.length] = value_states
        return (keys, values) if start else (key_states, value_states)

    def get_seq_length(self) -> int:
        return self.length
