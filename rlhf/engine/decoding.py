"""Decoding with a key-value cache. Equal prompts are computed once, and finished rows are dropped.

The cache is a buffer that grows in blocks, and attention reads the whole buffer under a mask. A slice of it would be
copied for every token and would change its shape every time, so that oneDNN would compile a new kernel. Models whose
attention does not take such a mask use transformers' cache.

Shapes: B rows; A active rows, those that have not been dropped; P prompt tokens; H heads of width D; W hidden width; V
vocabulary size.
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
from rlhf.engine.gpu.transfer import to_device
from rlhf.engine.kernels import prepacked_weights
from rlhf.engine.passes import accepts_argument, mask_arguments
from rlhf.engine.sharding import gathered_weights, is_sharded
from rlhf.engine.support import supports_packing

BLOCK = 32  # tokens by which a buffer grows
ROW_MULTIPLE = 8  # the number of rows is rounded up to this multiple so that oneDNN reuses compiled kernels
MAX_KEPT_SHARE = 0.85  # rows are dropped if at most this share is kept: dropping copies the cache
CHECK_EVERY = 16  # tokens after which a GPU is asked which rows have finished: the program waits for the answer


class Decoder:
    """Computes prompts (B, P), then one token at a time for each active row.

        with Decoder(model, input_ids, attention_mask) as decoder:
            while True:
                hidden, logits = decoder.forward()      # of the active rows, decoder.rows (A,)
                ...
                decoder.append(tokens)
                decoder.drop(finished)

    Weights must not change within the context. Raises InputError for a model without a key-value cache, such as Mamba.
    """

    def __init__(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor):
        if not accepts_argument(model, "past_key_values") and (
            accepts_argument(model, "cache_params") or accepts_argument(model, "state")
        ):
            raise InputError(f"{type(model).__name__} has no cache of keys and values, which sampling needs")
        self.model, self.cache = model, new_cache(model)
        self.masks_buffer, self.can_drop = supports_packing(model), supports_row_selection(self.cache)
        self.rows = torch.arange(len(input_ids), device=input_ids.device)  # (A,) indices of the active rows
        self.next_ids, self.attention_mask = input_ids, attention_mask.long()
        self.prompt_of: Tensor | None = None  # (B,) each row's index among distinct prompts, until these are repeated
        if self.can_drop:
            self.next_ids, self.attention_mask, self.prompt_of = distinct_prompts(self.next_ids, self.attention_mask)
        self.contexts = ExitStack()

    def __enter__(self) -> "Decoder":
        if is_sharded(self.model):
            self.contexts.enter_context(gathered_weights(self.model))  # prepacking them would make a second whole copy
        else:
            self.contexts.enter_context(prepacked_weights(self.model, len(self.rows)))
        self.contexts.enter_context(torch.no_grad())
        return self

    def __exit__(self, *error: Any) -> None:
        self.contexts.close()

    def forward(self) -> tuple[Tensor, Tensor]:
        """The hidden states (A, W) and the logits (A, V) after the last token of each active row."""
        inputs = mask_arguments(self.model, self.attention_mask)
        if self.masks_buffer and self.cache.get_seq_length():
            # the mask that each layer would build, extended to mask the unused end of the buffer
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
        """Appends a token to each active row; `tokens` is (A,)."""
        self.next_ids = tokens[:, None]
        self.attention_mask = torch.cat([self.attention_mask, torch.ones_like(self.attention_mask[:, :1])], dim=1)

    def drop(self, finished: Tensor) -> None:
        """Drops rows that are `finished` (A,) once there are enough. A few stay, to round up to ROW_MULTIPLE."""
        finished = finished.cpu()  # a GPU is waited for once, not for each result below
        unfinished = (~finished).nonzero().squeeze(1)
        count = -(-len(unfinished) // ROW_MULTIPLE) * ROW_MULTIPLE
        if self.can_drop and count <= MAX_KEPT_SHARE * len(self.rows):
            kept = torch.cat([unfinished, finished.nonzero().squeeze(1)[: count - len(unfinished)]])
            kept = to_device(kept, self.rows.device)
            self.cache.batch_select_indices(kept)
            self.rows, self.next_ids = self.rows[kept], self.next_ids[kept]
            self.attention_mask = self.attention_mask[kept]


def check_interval(device: torch.device) -> int:
    """The number of tokens after which finished rows are looked for: 1 on a CPU, where looking costs nothing."""
    return 1 if device.type == "cpu" else CHECK_EVERY


def distinct_prompts(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The distinct prompts of (B, P), their masks, and each row's index among them (B,), or None if all differ."""
    both = torch.stack([input_ids, attention_mask], dim=1)
    distinct, prompt_of = torch.unique(both.cpu(), dim=0, return_inverse=True)
    if len(distinct) == len(both):
        return input_ids, attention_mask, None
    ids, mask = to_device(distinct, both.device).unbind(dim=1)
    return ids, mask, to_device(prompt_of, both.device)


# --- the cache --------------------------------------------------------------------------------------------------------


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache for the model: BlockLayers if the model supports packing, else transformers' layers."""
    cache = DynamicCache(config=model.config)
    if supports_packing(model):
        cache.layers = [BlockLayer() for _ in cache.layers]
    return cache


def supports_row_selection(cache: DynamicCache) -> bool:
    """Whether rows can be selected from the cache, which only layers of keys and values support."""
    return all(type(layer) in (BlockLayer, DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def buffer_length(length: int) -> int:
    """The size, in tokens, of a buffer that holds `length` tokens."""
    return -(-length // BLOCK) * BLOCK


class BlockLayer(DynamicLayer):
    """transformers' DynamicLayer, in buffers (A, H, `buffer_length`, D).

    `update` returns the whole buffers, except in the first call, which computes the prompt.
    """

    length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        start, self.length = self.length, self.length + key_states.shape[2]
        keys, values = cast(Tensor, self.keys), cast(Tensor, self.values)
        if missing := buffer_length(self.length) - keys.shape[2]:
            # zeros, because uninitialised memory may hold NaN, which masking does not remove
            keys, values = (pad(buffer, (0, 0, 0, missing)) for buffer in (keys, values))
            self.keys, self.values = keys, values
        keys[:, :, start : self.length] = key_states
        values[:, :, start : self.length] = value_states
        return (keys, values) if start else (key_states, value_states)

    def get_seq_length(self) -> int:
        return self.length
