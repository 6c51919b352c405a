"""The advantage estimators without a value model agree with calculations by hand and invariances."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf import ppo
from tests.test_ppo import T, batches, masks

GROUP = sorted(ppo.GROUP_ESTIMATORS)
# returns 3, 6 and 0: their mean is 3, the squares of the differences sum up to 18
REWARDS, MASK = T([[1.0, 2.0, 99.0], [6.0, 99.0, 99.0], [-1.0, 0.5, 0.5]]), masks([2, 1, 3], 3)


def test_grpo_of_three_responses_equals_a_calculation_by_hand():
    z = 3 / (3 + 1e-4)  # the standard deviation of a sample is sqrt(18 / 2)
    expected = T([[0.0, 0.0, 0.0], [z, 0.0, 0.0], [-z, -z, -z]])
    torch.testing.assert_close(ppo.grpo(REWARDS, MASK, num_generations=3), expected)


def test_dr_grpo_of_three_responses_is_the_return_minus_the_mean_return():
    expected = T([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [-3.0, -3.0, -3.0]])
    torch.testing.assert_close(ppo.dr_grpo(REWARDS, MASK, num_generations=3), expected)


@pytest.mark.parametrize("baseline, of_batch", [(None, 3.0), (2.0, 2.0), (0.0, 0.0)])
def test_reinforce_subtracts_the_baseline_or_the_mean_of_a_first_batch(baseline, of_batch):
    expected = T([[3.0, 3.0, 0.0], [6.0, 0.0, 0.0], [0.0, 0.0, 0.0]]) - of_batch * MASK
    torch.testing.assert_close(ppo.reinforce(REWARDS, MASK, baseline), expected)


def test_the_running_mean_starts_at_its_first_number_and_moves_by_one_minus_the_decay():
    # 4; 0.75 * 4 + 0.25 * 8 = 5; 0.75 * 5 + 0.25 * 1 = 4
    mean = None
    for number, expected in ((4.0, 4.0), (8.0, 5.0), (1.0, 4.0)):
        mean = ppo.running_mean(mean, number, decay=0.75)
        assert mean == expected


@pytest.mark.parametrize("name", GROUP)
def test_an_estimator_of_groups_compares_only_responses_to_the_same_prompt(name):
    first, second = T([[1.0], [2.0]]), T([[30.0], [50.0]])
    together = ppo.GROUP_ESTIMATORS[name](torch.cat([first, second]), masks([1] * 4, 1), 2)
    apart = [ppo.GROUP_ESTIMATORS[name](rewards, masks([1, 1], 1), 2) for rewards in (first, second)]
    torch.testing.assert_close(together, torch.cat(apart))


@pytest.mark.parametrize("name", GROUP)
@given(rewards=st.lists(st.floats(-4, 4, width=16), min_size=4, max_size=4), constant=st.floats(-8, 8))
def test_a_constant_added_to_the_rewards_of_a_prompt_changes_nothing(name, rewards, constant):
    if 0 < statistics.pstdev(rewards) < 1e-2:
        return  # rounding would count
    column, mask = T(rewards)[:, None], masks([1] * 4, 1)
    shifted = ppo.GROUP_ESTIMATORS[name](column + constant, mask, 4)
    torch.testing.assert_close(shifted, ppo.GROUP_ESTIMATORS[name](column, mask, 4), atol=1e-2, rtol=0)


@given(rewards=st.lists(st.floats(-4, 4, width=16), min_size=4, max_size=4), scale=st.floats(1, 100))
def test_only_grpo_does_not_depend_on_the_scale_of_the_rewards_of_a_prompt(rewards, scale):
    if statistics.pstdev(rewards) < 0.1:
        return
    column, mask = T(rewards)[:, None], masks([1] * 4, 1)
    torch.testing.assert_close(ppo.grpo(scale * column, mask, 4), ppo.grpo(column, mask, 4), atol=5e-3, rtol=0)
    torch.testing.assert_close(
        ppo.dr_grpo(scale * column, mask, 4), scale * ppo.dr_grpo(column, mask, 4), atol=1e-3, rtol=1e-3
    )


@given(st.integers(2, 6), st.integers(0, 100))
def test_dr_grpo_is_rloo_times_n_minus_one_over_n(n, seed):
    """The baseline of rloo leaves the response itself out: a known identity."""
    rewards = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    mask = masks([3] * n, 3)
    torch.testing.assert_close(ppo.dr_grpo(rewards, mask, n), ppo.rloo(rewards, mask, n) * (n - 1) / n)


@pytest.mark.parametrize("name", GROUP)
def test_equal_returns_have_no_advantage(name):
    advantages = ppo.GROUP_ESTIMATORS[name](torch.full((4, 1), 0.25), masks([1] * 4, 1), 4)
    assert advantages.eq(0).all()


@given(batches(), st.sampled_from([0.0, 1e30, math.inf, math.nan]))
def test_no_number_outside_the_mask_changes_an_advantage(batch, number):
    mask, rewards = (torch.cat([part, part.flip(0)]) for part in batch)

    def results(rewards):
        grouped = [estimator(rewards, mask, 2) for estimator in ppo.GROUP_ESTIMATORS.values()]
        return torch.stack([*grouped, ppo.reinforce(rewards, mask, 0.5), ppo.reinforce(rewards, mask, None)])

    outside = results(rewards.where(mask, number))
    assert torch.equal(outside, results(rewards)) and outside.isfinite().all()
    assert outside[:, ~mask].eq(0).all()
