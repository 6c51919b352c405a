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
    trunk = models.value_model.model
    for module in trunk.modules():
        trunk._init_weights(module)
    nn.init.zeros_(models.value_model.head.weight)
    return models


if __name__ == "__main__":
    patched: Any = stages.ppo
    patched.load_models = load_with_new_value_model
    main("ppo", work)
