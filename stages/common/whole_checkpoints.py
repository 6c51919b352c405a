"""Checkpoints of a Trainer whose model is sharded: whole, in the same files as those of one process."""

from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from rlhf.engine import (
    is_sharded,
    load_whole_optimizer_state,
    load_whole_state,
    whole_optimizer_state,
    whole_state,
)


class WholeCheckpoints(Trainer):
    """A Trainer whose checkpoints any number of processes can read, sharded or not.

    The main process writes them. transformers would write pickles, or a part per process.
    """

    model: nn.Module

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the whole model, with FSDP too."""
        if not is_sharded(self.model):
            super().save_model(output_dir, _internal_call)
        else:
            self._save(output_dir, state_dict=whole_state(self.model))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(self.model):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = whole_optimizer_state(cast(Optimizer, self.optimizer))
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(cast(LRScheduler, self.lr_scheduler).state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not is_sharded(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_whole_state(self.model, load_file(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not is_sharded(self.model) or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        states = [
            torch.load(Path(checkpoint) / name, map_location="cpu", mmap=True, weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        ]
        load_whole_optimizer_state(cast(Optimizer, self.optimizer), states[0])
        cast(LRScheduler, self.lr_scheduler).load_state_dict(states[1])
