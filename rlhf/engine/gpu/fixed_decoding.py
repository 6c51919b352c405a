"""Decoding with the same shapes at every token, so that a CUDA graph can replay the step without Python.

At gpt2 size a GPU computes the step of a token faster than Python can start its kernels. Ids, positions, mask, keys and
values are in buffers of the whole length, and each token is written at a position that is a tensor. No row is dropped.

Shapes: B rows; P prompt tokens; L tokens of the buffers; H heads of width D; W hidden width; V vocabulary size.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rlhf.engine.decoding import BlockLayer, Decoder, buffer_length
from rlhf.engine.forward import last_states
from rlhf.engine.passes import accepts_argument
from rlhf.engine.sharding import is_sharded
from rlhf.engine.support import supports_packing

aten = torch.ops.aten
FIXED_SHAPES = False  # off, because capturing has never run on a GPU
Step = Callable[[], tuple[Tensor, Tensor]]


def decoder_of(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, response_length: int) -> Decoder:
    """A decoder of prompts (B, P) and at most `response_length` tokens: `FixedDecoder` if that is on and supported."""
    if FIXED_SHAPES and supports_packing(model) and not is_sharded(model):
        return FixedDecoder(model, input_ids, attention_mask, response_length)
    return Decoder(model, input_ids, attention_mask)


class FixedDecoder(Decoder):
    """A `Decoder` whose steps have fixed shapes, and are replayed by a CUDA graph on a GPU.

    What `forward` returns is overwritten by the next call. Appends at most `response_length` tokens.
    """

    def __init__(self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, response_length: int):
        super().__init__(model, input_ids, attention_mask)
        self.length = buffer_length(input_ids.shape[1] + response_length)
        self.run: Step | None = None  # computes a token; None until the prompts are computed

    def forward(self) -> tuple[Tensor, Tensor]:
        """The hidden states (B, W) and the logits (B, V) after the last token of each row."""
        if not isinstance(self.cache.layers[0], FixedLayer):
            states = super().forward()
            self._make_buffers()
            return states
        if self.run is None:
            self.run = captured(self._step, self.next_ids.device)
        return self.run()

    def append(self, tokens: Tensor) -> None:
        """Appends a token to each row; `tokens` is (B,)."""
        self.next_ids.copy_(tokens[:, None])
        self.position_ids.add_(1)
        self.slot.add_(1)
        self.mask.index_fill_(1, self.slot, True)

    def drop(self, finished: Tensor) -> None:
        """Drops no row, because the shapes of a graph are fixed."""

    def _make_buffers(self) -> None:
        """Moves the state after the prompts to buffers, which every later step writes in place."""
        mask, prompt = self.attention_mask, self.attention_mask.shape[1]
        self.mask = pad(mask, (0, self.length - prompt)).bool()
        self.position_ids = mask.sum(dim=1, keepdim=True) - 1
        self.slot = torch.full((1,), prompt - 1, device=mask.device)  # the index in the buffers of the last token
        self.next_ids = torch.zeros_like(self.position_ids)
        self.cache.layers = [FixedLayer(cast(BlockLayer, old), self.length, self.slot) for old in self.cache.layers]

    def _step(self) -> tuple[Tensor, Tensor]:
        """The states after the last token. A second call writes the same values to the same places."""
        inputs = {"position_ids": self.position_ids} if accepts_argument(self.model, "position_ids") else {}
        mask = self.mask[:, None, None]  # a new view for each step, because attention keeps the bias of a mask on it
        return last_states(
            self.model, self.next_ids, past_key_values=self.cache, use_cache=True, attention_mask=mask, **inputs
        )


class FixedLayer(DynamicLayer):
    """The keys and values of a `BlockLayer` in buffers (B, H, L, D) that never move.

    `update` writes one token at index `slot` (1,) and returns the whole buffers.
    """

    def __init__(self, old: BlockLayer, length: int, slot: Tensor):
        super().__init__()
        keys, values = (cast(Tensor, tensor)[:, :, : old.length] for tensor in (old.keys, old.values))
        self.lazy_initialization(keys, values)
        self.keys, self.values = (pad(tensor, (0, 0, 0, length - old.length)) for tensor in (keys, values))
        self.slot = slot

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = cast(Tensor, self.keys), cast(Tensor, self.values)
        return keys.index_copy_(2, self.slot, key_states), values.index_copy_(2, self.slot, value_states)

    def get_seq_length(self) -> int:
        return cast(int, self.slot[0])  # a tensor, as in transformers' StaticLayer: a graph would keep a number


# --- CUDA graphs ------------------------------------------------------------------------------------------------------


def captured(step: Step, device: torch.device) -> Step:
    """A function that replays `step` from a CUDA graph; `step` itself on another device, or if a graph can't hold it.

    `step` must be repeatable. The first call here, which is not captured, makes what is made once: the workspaces of
    libraries, and autocast's half-precision copies of the weights, which the graph then reads.
    """
    if device.type != "cuda":
        return step
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream), Waits() as waits:
        step()
    torch.cuda.current_stream(device).wait_stream(stream)
    if waits.names:
        return step
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        states = step()

    def replay() -> tuple[Tensor, Tensor]:
        graph.replay()
        return states

    return replay


class Waits(TorchDispatchMode):
    """Collects the operations for which Python waits for a GPU: their result decides a shape, a branch or a number.

    A graph can hold none of them, nor a copy between devices, which also counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
            # only a mask has a shape that depends on its values; the index's own tag does not tell them apart
            indices = [index for index in args[1] if index is not None]
            waits = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
            waits |= any(index.device != args[0].device for index in indices)
        elif func.overloadpacket in (aten._to_copy, aten.copy_):
            waits = len({tensor.device for tensor in (*args, output) if isinstance(tensor, Tensor)}) > 1
        else:
            waits = bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))
        if waits:
            self.names.append(str(func))
        return output
