"""The processes of a run: which rows each of them computes, and what they exchange.

Accelerate starts the exchange. A program that no launcher started is one process, and nothing is exchanged.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from rlhf import InputError

Result = TypeVar("Result")


def process_count() -> int:
    """The number of processes that compute together."""
    return torch.distributed.get_world_size() if _connected() else 1


def process_index() -> int:
    """The number of this process, from 0; 0 is the main process."""
    return torch.distributed.get_rank() if _connected() else 0


def _connected() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def own_share(count: int) -> slice:
    """This process's part of `count` rows. The parts of all processes follow each other and differ by one row at most.

    A part is empty if there are fewer rows than processes.
    """
    processes, index = process_count(), process_index()
    return slice(count * index // processes, count * (index + 1) // processes)


def balanced_share(sizes: Tensor, group: int = 1) -> Tensor:
    """The indices of this process's rows, such that the rows of each process have about the same total size.

    `sizes` is (rows,). Each `group` consecutive rows stay together. One process has all rows, in their order.
    """
    processes, index = process_count(), process_index()
    rows = torch.arange(len(sizes))
    if processes == 1:
        return rows
    order = sizes.view(-1, group).sum(dim=1).argsort(stable=True).tolist()
    # dealt out back and forth: 0, 1, 1, 0, 0, 1, ...
    own = sorted(number for place, number in enumerate(order) if _dealt_to(place, processes) == index)
    return rows.view(-1, group)[own].flatten()


def _dealt_to(place: int, processes: int) -> int:
    turn, position = divmod(place, processes)
    return processes - 1 - position if turn % 2 else position


def total(part: Tensor) -> Tensor:
    """The sum of a tensor over all processes, on each of them."""
    if process_count() == 1:
        return part
    return reduce(part.to(PartialState().device), "sum").to(part.device)


def most(count: int) -> int:
    """The largest `count` of all processes."""
    return max(gathered([count]))


def gathered(parts: list[Result]) -> list[Result]:
    """The lists of all processes, joined in the order of the processes, on each of them."""
    return parts if process_count() == 1 else gather_object(parts)


def on_main(compute: Callable[[], Result]) -> Result:
    """What `compute` returns on the main process, on each process. The others don't call it.

    If it raises an InputError, every process raises one with the same message.
    """
    if process_count() == 1:
        return compute()
    outcome: list[Any] = [None, None]
    if process_index() == 0:
        try:
            outcome[0] = compute()
        except InputError as error:
            outcome[1] = str(error)  # an error with further arguments can't be pickled
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise InputError(outcome[1])
    return outcome[0]


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, or the model itself if it is not wrapped."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def call_inside(model: nn.Module, function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(unwrap(model), *arguments)`, called by the forward pass of the wrapper or of a sharded model.

    DistributedDataParallel exchanges the gradients of its own forward pass only, and FSDP gathers weights in it.
    """
    inner = unwrap(model)
    if inner is model and not isinstance(model, FSDPModule):
        return function(model, *arguments)
    original = inner.__dict__.get("forward")  # of the instance, which Accelerate sets in mixed precision

    def restore() -> None:
        inner.__dict__.pop("forward", None)
        if original is not None:
            inner.forward = original

    def forward(_: None) -> Result:
        restore()  # the function may call the model
        return function(inner, *arguments)

    inner.forward = forward
    try:
        return model(None)
    finally:
        restore()
