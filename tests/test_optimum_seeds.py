"""PPO reaches the optimum of other scores from other SFT models."""

import pytest

from tests.optimum import KL_COEFS, assert_ppo_reaches_the_optimum


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kl_coef", KL_COEFS)
def test_ppo_reaches_the_optimum_with_other_seeds(seed, kl_coef):
    assert_ppo_reaches_the_optimum(seed=seed, kl_coef=kl_coef)
