"""PPO with a value model reaches the optimum of the KL-penalised objective, which is known in closed form."""

import pytest
import torch

from tests.optimum import RESPONSES, World, assert_ppo_reaches_the_optimum, log_distribution


@pytest.mark.parametrize("kl_coef", [*(pytest.param(beta, marks=pytest.mark.slow) for beta in (0.4, 0.6)), 1.0])
def test_ppo_reaches_the_optimum(kl_coef):
    assert_ppo_reaches_the_optimum(seed=0, kl_coef=kl_coef)


def test_ppo_with_lora_adapters_of_rank_8_reaches_the_optimum():
    steps = {"total_episodes": 128 * 120, "learning_rate": 1e-2, "value_learning_rate": 1e-2}
    assert_ppo_reaches_the_optimum(seed=0, kl_coef=0.6, lora_r=8, **steps)


def test_every_response_is_listed_once_and_their_probabilities_sum_to_one():
    assert len(RESPONSES) == len(set(RESPONSES)) == 1 + 3 + 3 * 3 * 4
    with torch.no_grad():
        torch.testing.assert_close(log_distribution(World.of_seed(0).policy()).exp().sum(dim=1), torch.ones(3))
