"""Pretraining with Muon for the matrices of the blocks, and AdamW for embeddings, biases and layer norms.

torch's Muon takes matrices only. Source: Jordan et al., https://kellerjordan.github.io/posts/muon, and for its scale
Liu et al., arXiv 2502.16982: both parts then use the same learning rate.
"""

from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from stages.common.stage import main
from stages.common.training import SavingSFTTrainer
from stages.pretrain import work


class Together(Optimizer):
    """Several optimizers as one. Their groups of parameters are its own, so a schedule changes their learning rates."""

    def __init__(self, *optimizers: Optimizer):
        self.optimizers = optimizers
        super().__init__([group for part in optimizers for group in part.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of each."""
        for part in self.optimizers:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of each, in order, under `parts`."""
        return {"parts": [part.state_dict() for part in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        for part, state in zip(self.optimizers, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        # loading has replaced the groups
        self.param_groups = [group for part in self.optimizers for group in part.param_groups]


def muon(model: nn.Module, arguments: Any) -> Together:
    """Muon for every matrix that belongs to no embedding, and AdamW for the rest, without decay of biases and norms."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    parameters = list(model.parameters())  # without repetition: the output layer is the embedding
    matrices = [p for p in parameters if p.ndim == 2 and id(p) not in embeddings]
    others = [p for p in parameters if id(p) in embeddings]
    vectors = [p for p in parameters if p.ndim != 2]
    rate, decay = arguments.learning_rate, arguments.weight_decay
    groups = [{"params": others, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    return Together(
        Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        AdamW(groups, lr=rate, betas=betas, eps=arguments.adam_epsilon, fused=True),
    )


def create_optimizer(trainer: Any, model: nn.Module | None = None) -> Optimizer:
    """In place of the Trainer's method of this name."""
    if trainer.optimizer is None:
        trainer.optimizer = muon(model or trainer.model, trainer.args)
    return trainer.optimizer


if __name__ == "__main__":
    patched: Any = SavingSFTTrainer
    patched.create_optimizer = create_optimizer
    main("pretrain", work, "experiments.pretraining.muon")
