"""Keys and values of a decode, in buffers that grow by blocks.

Attention is given the whole buffer: a slice of it would be copied for its products at every token, and have a shape of
its own each time. Only for models that take a mask which hides what is not there yet; others keep transformers' cache.
"""

from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rlhf.forward import packs

BLOCK = 32  # tokens


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """The model's own kind of cache, its ordinary layers replaced by ones that grow by blocks if it takes our mask."""
    cache = DynamicCache(config=model.config)
    if packs(model):
        cache.layers = [BlockLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def can_select(cache: DynamicCache) -> bool:
    """Whether rows can be taken out of the cache: a layer that keeps a state besides would not take it from there."""
    return all(type(layer) in (BlockLayer, DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def room(length: int) -> int:
    """How many tokens a buffer holds when `length` of them are there."""
    return -(-length // BLOCK) * BLOCK


class BlockLayer(DynamicLayer):
    """transformers' DynamicLayer, but in buffers (B, H, room, D), of which all but the first call get the whole."""

    length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        start, self.length = self.length, self.length + key_states.shape[2]
        if missing := room(self.length) - self.keys.shape[2]:
            # zeros: whatever else lay there could be no number, and hidden as it is make one of none
            self.keys, self.values = (pad(buffer, (0, 0, 0, missing)) for buffer in (self.keys, self.values))
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return (self.keys, self.values) if start else (key_states, value_states)

    def get_seq_length(self) -> int:
        return self.length
