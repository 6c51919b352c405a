"""Value models that can't express every value, for the modules that run them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

import stages.ppo
from stages.ppo import load_models


def use(activation: Callable[[Tensor], Tensor]) -> None:
    """Makes the stage PPO load a value model whose values go through `activation`."""

    def load(*arguments: Any) -> Any:
        models = load_models(*arguments)
        assert models.value_model is not None
        squash(models.value_model, activation)
        return models

    patched: Any = stages.ppo
    patched.load_models = load


def squash(value_model: nn.Module, activation: Callable[[Tensor], Tensor]) -> None:
    """Applies `activation` to everything that the model returns, in place."""
    value_model.register_forward_hook(lambda module, inputs, values: activation(values))
