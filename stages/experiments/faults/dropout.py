"""PPO whose policy has dropout in its updates, but not when it samples: the ratio is not 1 in the first update."""

from typing import Any

import torch
from torch import Tensor, nn

import rlhf.trainer
from rlhf.trainer import PPOTrainer
from stages.common.stage import main
from stages.ppo import work

RATE = 0.1  # GPT-2's
add_gradients = PPOTrainer.add_gradients


def add_gradients_with_dropout(trainer: PPOTrainer, *arguments: Any) -> None:
    """`PPOTrainer.add_gradients`, with dropout on the output of each block of the policy."""
    policy = trainer.accelerator.unwrap_model(trainer.policy)
    blocks = next(module for module in policy.modules() if isinstance(module, nn.ModuleList))
    hooks = [block.register_forward_hook(drop) for block in blocks]
    add_gradients(trainer, *arguments)
    for hook in hooks:
        hook.remove()


def drop(module: nn.Module, inputs: Any, output: Any) -> Any:
    """The output of a block with dropout."""
    if isinstance(output, Tensor):
        return nn.functional.dropout(output, RATE)
    return (nn.functional.dropout(output[0], RATE), *output[1:])


if __name__ == "__main__":
    torch.manual_seed(0)
    patched: Any = PPOTrainer
    patched.add_gradients = add_gradients_with_dropout
    rlhf.trainer.check_first_rollout = lambda *arguments, **options: (
        "no check, because this run has a mistake on purpose"
    )
    main("ppo", work, "experiments.faults.dropout")
