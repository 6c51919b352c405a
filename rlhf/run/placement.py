"""Where and how the weights of a model lie: frozen, in half precision, shared out over the processes."""

from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhf import InputError
from rlhf.adapters.lora import has_adapter
from rlhf.classifiers import Scorer
from rlhf.engine import is_sharded, probe, shard, sharding_plugin

Model = TypeVar("Model", PreTrainedModel, Scorer)
Module = TypeVar("Module", bound=nn.Module)


def freeze(model: Model, accelerator: Accelerator) -> Model:
    """Moves a model to the accelerator's device and turns its gradients off, in place; returns it.

    In bf16 or fp16 the matrices of its layers are stored in that type. Autocast rounds them in any case, so the results
    are the same, and they take half the memory. Heads and embeddings stay in fp32, because they are also used in fp32.
    """
    if is_sharded(model):
        return model  # it has been frozen before
    model.requires_grad_(False).to(accelerator.device)
    if rounded := {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision):
        _round_matrices(model.model if isinstance(model, Scorer) else model, rounded)
    return model


def distributed(model: Module) -> Module:
    """The same model, sharded over the processes if Accelerate uses FSDP. Raises InputError for one with an adapter."""
    if sharding_plugin() is not None and has_adapter(model.model if isinstance(model, Scorer) else model):
        raise InputError("adapters are not supported with FSDP: leave lora_r out, or use another kind of distribution")
    if isinstance(model, Scorer):
        shard(model.model, whole_root=False)
    else:
        shard(model)
    return model


def _round_matrices(model: PreTrainedModel, dtype: torch.dtype) -> None:
    probe(model)
    for module in model.base_model.modules():
        if type(module) in (nn.Linear, Conv1D):
            module.to(dtype)
    for parameter in model.parameters():
        # a copy, because a memory-mapped weight file stays in memory while any tensor still points into it
        parameter.data = parameter.data.clone()
