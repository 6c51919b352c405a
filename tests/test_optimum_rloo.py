"""PPO without a value model reaches the same optimum."""

import pytest

from tests.optimum import assert_ppo_reaches_the_optimum
from tests.trainers import RLOO


@pytest.mark.parametrize("kl_coef", [*(pytest.param(beta, marks=pytest.mark.slow) for beta in (0.4, 0.6)), 1.0])
def test_ppo_without_a_value_model_reaches_the_optimum(kl_coef):
    assert_ppo_reaches_the_optimum(seed=0, kl_coef=kl_coef, **RLOO)
