"""Pretraining with Adam: the weight decay is added to the gradient, and AdamW subtracts it from the weights.

Source: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2.
"""

from typing import Any

import torch

from stages.common.stage import main
from stages.common.training import SavingSFTTrainer
from stages.pretrain import work


def adam(arguments: Any, model: Any = None) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """torch's Adam and its options, in place of what the arguments name. The Trainer sets the weight decay."""
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    # fused, as the AdamW that it is compared with, so that their seconds can be compared
    return torch.optim.Adam, {
        "lr": arguments.learning_rate,
        "betas": betas,
        "eps": arguments.adam_epsilon,
        "fused": True,
    }


if __name__ == "__main__":
    patched: Any = SavingSFTTrainer
    patched.get_optimizer_cls_and_kwargs = staticmethod(adam)
    main("pretrain", work, "experiments.pretraining.adam")
