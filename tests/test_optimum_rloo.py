"""PPO without a value model, and with every other estimator and loss, reaches the same optimum."""

import pytest

from tests.optimum import assert_ppo_reaches_the_optimum
from tests.trainers import OTHERS, RLOO


@pytest.mark.parametrize("kl_coef", [*(pytest.param(beta, marks=pytest.mark.slow) for beta in (0.4, 0.6)), 1.0])
def test_ppo_without_a_value_model_reaches_the_optimum(kl_coef):
    assert_ppo_reaches_the_optimum(seed=0, kl_coef=kl_coef, **RLOO)


@pytest.mark.slow
@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_every_estimator_and_loss_reaches_the_optimum(options):
    assert_ppo_reaches_the_optimum(seed=0, kl_coef=1.0, **options)
