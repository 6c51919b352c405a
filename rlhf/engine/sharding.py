"""Models whose weights are shared out over the processes of a run, by torch's `fully_shard` (FSDP2).

Accelerate's plugin has the settings. A sharded model stays an object of the same class. Its weights are DTensors, and
a layer is gathered while it computes. All processes must call a sharded model equally often, unless its weights are
gathered.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from transformers import PreTrainedModel

from rlhf import InputError
from rlhf.engine.kernels import return_freed_memory
from rlhf.engine.processes import call_inside, most, process_count, process_index
from rlhf.engine.support import probe

Model = TypeVar("Model", bound=nn.Module)


def start_sharding(cpu: bool, precision: str) -> str:
    """Makes Accelerate use FSDP2 with the settings of its environment variables; returns Accelerate's name of it, FSDP.

    `precision` is the mixed precision of the run. Call it before models are loaded and before there is an Accelerator.
    Raises InputError for settings that are not supported.
    """
    # otherwise transformers would load random weights in all processes but one
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    if os.environ.get("FSDP_AUTO_WRAP_POLICY", "").upper() == "SIZE_BASED_WRAP":
        raise InputError("SIZE_BASED_WRAP is not supported: set fsdp_auto_wrap_policy to TRANSFORMER_BASED_WRAP")
    os.environ["FSDP_AUTO_WRAP_POLICY"] = "TRANSFORMER_BASED_WRAP"
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise InputError("FSDP 1 is not supported: set fsdp_version to 2 in Accelerate's configuration")
    try:
        plugin = FullyShardedDataParallelPlugin()
    except ValueError as error:
        raise InputError(f"Accelerate refuses its configuration of FSDP: {error}") from error
    if plugin.activation_checkpointing:
        raise InputError("fsdp_activation_checkpointing is not supported: set it to false, and lower micro_batch_size")
    state = Accelerator(cpu=cpu, mixed_precision=precision, fsdp_plugin=plugin).state
    state.fsdp_plugin = plugin  # on a CPU, Accelerate does not set it
    # each new Accelerator takes the type from PartialState, where Accelerate does not write FSDP
    PartialState().distributed_type = state.distributed_type = DistributedType.FSDP
    # weights are gathered in fp32 and rounded by autocast, as on one process; FSDP would also round the layer norms
    plugin.mixed_precision_policy = None
    plugin.auto_wrap_policy = None  # `shard` finds the layers; in its models Accelerate would not
    return str(DistributedType.FSDP.value)


def sharding_plugin() -> FullyShardedDataParallelPlugin | None:
    """Accelerate's settings if models are to be sharded, else None."""
    state: dict[str, Any] = AcceleratorState._shared_state
    is_fsdp = state.get("distributed_type") == DistributedType.FSDP
    return state.get("fsdp_plugin") if is_fsdp and process_count() > 1 else None


def shard(model: Model, whole_root: bool = True) -> Model:
    """Shards a model in place if Accelerate uses FSDP, and returns it.

    Each layer of a transformer is gathered alone, and what is outside of the layers together. With `whole_root` that
    stays gathered after a forward pass, for logits that are computed after it. Accelerate's own `prepare` would need
    the output layer in every pass.
    """
    plugin = sharding_plugin()
    if plugin is None or isinstance(model, FSDPModule):
        return model
    if isinstance(model, PreTrainedModel):
        probe(model)  # needs whole weights
    settings: dict[str, Any] = {
        "offload_policy": plugin.cpu_offload,
        "mp_policy": plugin.mixed_precision_policy or MixedPrecisionPolicy(),
    }
    names = plugin.transformer_cls_names_to_wrap or getattr(model, "_no_split_modules", None) or ()
    for module in reversed(list(model.modules())):
        if module is not model and type(module).__name__ in names:
            fully_shard(module, reshard_after_forward=bool(plugin.reshard_after_forward), **settings)
    fully_shard(model, reshard_after_forward=not whole_root, **settings)
    return_freed_memory()
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights of a model are shared out over the processes."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


@contextmanager
def gathered_weights(model: nn.Module) -> Iterator[None]:
    """A context in which each process holds all weights of a model. It may then compute without the others.

    Entering it is for all processes.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not parts:
        yield
        return
    plugin = cast(FullyShardedDataParallelPlugin, sharding_plugin())
    call_inside(cast(nn.Module, parts[0]), lambda inner: None)  # FSDP takes the first module that computes for the root
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts[1:]:
            part.set_reshard_after_forward(bool(plugin.reshard_after_forward), recurse=False)
        release(model)


def release(model: nn.Module) -> None:
    """Frees weights of other processes that a sharded model still holds."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def all_finite(model: nn.Module) -> bool:
    """Whether all weights of a model are finite numbers. All processes must call it if it is sharded."""
    finite = all(bool(weight.isfinite().all()) for weight in own_weights(model).values())
    return not most(int(not finite)) if is_sharded(model) else finite


def own_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model by name; of a sharded one, this process's part of each."""
    release(model)
    return {name: p.to_local() if isinstance(p, DTensor) else p for name, p in model.named_parameters()}


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Clips a model's gradients to a norm, in place, and returns the norm before; all processes get the same. Scalar."""
    norm = clip_grad_norm_(model.parameters(), max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


# --- whole tensors ----------------------------------------------------------------------------------------------------


def whole(tensor: Tensor) -> Tensor | None:
    """The whole of a tensor, on the CPU, on the main process; None on the others. All of them must call it."""
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.detach().cpu() if process_index() == 0 else None


def whole_state(model: nn.Module) -> dict[str, Any]:
    """The state dict of a model, with whole tensors on the main process; other processes get it without tensors.

    All processes must call it if the model is sharded.
    """
    if not is_sharded(model):
        return model.state_dict()
    release(model)
    result: dict[str, Any] = {}
    seen: dict[int, Any] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:  # tied weights stay one tensor
            seen[id(tensor)] = whole(tensor)
        result[name] = seen[id(tensor)]
    return result


def load_whole_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads whole tensors. Of a sharded model, each process copies its part. Tied weights may be named once.

    Raises KeyError if a tensor is missing.
    """
    if not is_sharded(model):
        model.load_state_dict(state)
        return
    release(model)
    own = model.state_dict(keep_vars=True)
    loaded = {id(tensor) for name, tensor in own.items() if name in state}
    if missing := [name for name, tensor in own.items() if id(tensor) not in loaded]:
        raise KeyError(missing[0])
    with torch.no_grad():
        for name, tensor in own.items():
            if name in state:
                tensor.copy_(_like(state[name], tensor))


def whole_optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """The state dict of an optimizer, with whole tensors on the main process. All processes must call it."""
    state = optimizer.state_dict()
    if not any(isinstance(p, DTensor) for group in optimizer.param_groups for p in group["params"]):
        return state
    numbers = {
        index: {name: whole(value) if isinstance(value, Tensor) else value for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": numbers}


def load_whole_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Loads what `whole_optimizer_state` returned on the main process. Each process keeps its part."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = {
        index: {name: _part(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": numbers})


def _part(value: Any, parameter: Tensor) -> Any:
    if isinstance(value, Tensor) and isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return _like(value, parameter).clone()  # a slice of a mapped file would keep the file in memory
    return value


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, distributed as another is. No data is exchanged."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


def save_whole(model: PreTrainedModel, folder: Any) -> None:
    """`model.save_pretrained(folder)`. Of a sharded model, the main process gathers and writes; all must call it."""
    if not is_sharded(model):
        model.save_pretrained(folder)
        return
    state = whole_state(model)
    if process_index() == 0:
        model.save_pretrained(folder, state_dict=state)
