"""PPO whose value model starts from random weights instead of those of the reward model."""

from typing import Any

from torch import nn

import stages.ppo
from rlhf.classifiers import Scorer
from stages.common.stage import main
from stages.ppo import load_models, work


def load_with_new_value_model(*arguments: Any) -> Any:
    """The models of `load_models`, the value model with new random weights, and values of 0 at first."""
    models = load_models(*arguments)
    assert isinstance(models.value_model, Scorer)
    make_new(models.value_model)
    return models


def make_new(scorer: Scorer) -> None:
    """Gives a scorer new random weights, and scores of 0."""
    trunk = scorer.model
    # a new model, because Transformers' _init_weights skips weights that were loaded from a file
    trunk.load_state_dict(type(trunk)(trunk.config).state_dict())
    nn.init.zeros_(scorer.head.weight)
    trunk.config.score_mean = 0.0


if __name__ == "__main__":
    patched: Any = stages.ppo
    patched.load_models = load_with_new_value_model
    main("ppo", work, "experiments.faults.value_from_scratch")
