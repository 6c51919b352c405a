"""The equations of PPO agree with calculations by hand, numpy, closed forms and brute force."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf import ppo

T = torch.tensor


def masks(lengths: list[int], width: int) -> torch.Tensor:
    return torch.arange(width) < T(lengths)[:, None]


@st.composite
def batches(draw, tensors: int = 1):
    """A mask of responses of at least one token, and tensors of its shape that are 1e30 outside it."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    width = max(lengths) + draw(st.integers(0, 2))
    mask = masks(lengths, width)
    number = st.floats(-4, 4, width=32)
    values = [
        T(draw(st.lists(number, min_size=mask.numel(), max_size=mask.numel()))).view(mask.shape).where(mask, 1e30)
        for _ in range(tensors)
    ]
    return mask, *values


# --- rewards ----------------------------------------------------------------------------------------------------------


def test_the_score_is_added_to_the_last_token_and_the_kl_penalty_to_every_token():
    mask = masks([3, 1], 4)
    logprobs = T([[-1.0, -2.0, -3.0, 9.0], [-0.5, 9.0, 9.0, 9.0]])
    ref_logprobs = T([[-1.5, -2.0, -2.0, 7.0], [-1.0, 7.0, 7.0, 7.0]])
    rewards = ppo.kl_penalised_rewards(T([10.0, 20.0]), logprobs, ref_logprobs, mask, kl_coef=0.1)
    # -0.1 * (-1 + 1.5), -0.1 * 0, -0.1 * (-3 + 2) + 10; -0.1 * (-0.5 + 1) + 20
    torch.testing.assert_close(rewards, T([[-0.05, 0.0, 10.1, 0.0], [19.95, 0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_score_of_another_precision_than_the_logprobs_gives_the_same_reward(dtype):
    zeros = torch.zeros(1, 2)
    rewards = ppo.kl_penalised_rewards(T([3.0], dtype=dtype), zeros, zeros, masks([2], 2), kl_coef=0.1)
    assert rewards.tolist() == [[0.0, 3.0]]


@given(batches(2))
def test_the_rewards_of_a_response_sum_to_its_score_minus_the_kl_penalty(batch):
    mask, logprobs, ref_logprobs = batch
    scores = torch.arange(len(mask)) + 1.0
    rewards = ppo.kl_penalised_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=0.3)
    for row, score in enumerate(scores):
        log_ratio = sum(float(logprobs[row, t] - ref_logprobs[row, t]) for t in range(int(mask[row].sum())))
        assert float(rewards[row].sum()) == pytest.approx(float(score) - 0.3 * log_ratio, abs=1e-4)


# --- advantages -------------------------------------------------------------------------------------------------------


def test_rloo_of_three_responses_equals_a_calculation_by_hand():
    # returns 1 + 2, 6 and 0, minus the means of the others: 3 - 3, 6 - 1.5 and 0 - 4.5
    rewards = T([[1.0, 2.0, 99.0], [6.0, 99.0, 99.0], [-1.0, 0.5, 0.5]])
    advantages = ppo.rloo(rewards, masks([2, 1, 3], 3), num_generations=3)
    torch.testing.assert_close(advantages, T([[0.0, 0.0, 0.0], [4.5, 0.0, 0.0], [-4.5, -4.5, -4.5]]))


def test_rloo_compares_only_responses_to_the_same_prompt():
    rewards = T([[1.0], [2.0], [30.0], [50.0]])
    assert ppo.rloo(rewards, masks([1] * 4, 1), num_generations=2).flatten().tolist() == [-1, 1, -20, 20]


def test_the_baseline_of_rloo_does_not_change_the_expected_gradient():
    """The exact mean of advantage times gradient, over all pairs of responses of one token out of three."""
    logits, rewards = (
        T([0.3, -0.7, 1.1], dtype=torch.float64).requires_grad_(),
        T([2.0, -1.0, 0.5], dtype=torch.float64),
    )
    (expected,) = torch.autograd.grad((logits.softmax(0) * rewards).sum(), logits)
    log_p, surrogate = logits.log_softmax(0), 0.0
    for one in range(3):
        for other in range(3):
            advantages = ppo.rloo(rewards[[one, other], None], masks([1, 1], 1), num_generations=2)
            probability = (log_p[one] + log_p[other]).exp().detach()
            surrogate = surrogate + probability * (advantages[:, 0] * log_p[[one, other]]).mean()
    torch.testing.assert_close(torch.autograd.grad(surrogate, logits)[0], expected)


def test_gae_of_two_tokens_equals_a_calculation_by_hand():
    # delta_1 = 1 - 0.25 = 0.75; delta_0 = 0 + 0.5 * 0.25 - 0.5 = -0.375; A_0 = -0.375 + 0.5 * 0.8 * 0.75 = -0.075
    advantages, returns = ppo.gae(T([[0.0, 1.0]]), T([[0.5, 0.25]]), masks([2], 2), gamma=0.5, lam=0.8)
    torch.testing.assert_close(advantages, T([[-0.075, 0.75]]))
    torch.testing.assert_close(returns, T([[0.425, 1.0]]))


@given(batches(2), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_discounted_sum_of_temporal_differences(batch, gamma, lam):
    mask, rewards, values = batch
    advantages, returns = ppo.gae(rewards, values, mask, gamma, lam)
    for row in range(len(mask)):
        n = int(mask[row].sum())
        r, v = rewards[row, :n].tolist(), [*values[row, :n].tolist(), 0.0]
        deltas = [r[t] + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            expected = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n))
            assert float(advantages[row, t]) == pytest.approx(expected, abs=1e-3)
            assert float(returns[row, t]) == pytest.approx(expected + v[t], abs=1e-3)
        assert advantages[row, n:].eq(0).all()
        assert returns[row, n:].eq(0).all()


@given(batches(2))
def test_with_lambda_one_returns_are_the_sums_of_later_rewards(batch):
    mask, rewards, values = batch
    _, returns = ppo.gae(rewards, values, mask, gamma=1.0, lam=1.0)
    for row in range(len(mask)):
        n = int(mask[row].sum())
        reward_to_go = np.cumsum(rewards[row, :n].numpy()[::-1])[::-1]
        np.testing.assert_allclose(returns[row, :n], reward_to_go, atol=1e-3)


def test_correct_values_leave_no_advantage():
    """The value of state t belongs to token t, which is chosen in that state."""
    rewards, mask = T([[0.0, 0.0, 7.0]]), masks([3], 3)
    advantages, _ = ppo.gae(rewards, T([[7.0, 7.0, 7.0]]), mask, gamma=1.0, lam=0.95)
    torch.testing.assert_close(advantages, torch.zeros(1, 3))


# --- whitening --------------------------------------------------------------------------------------------------------


@given(batches())
def test_whitened_values_have_mean_zero_and_variance_one_over_the_mask(batch):
    mask, values = batch
    inside = values[mask].numpy().astype(np.float64)
    if inside.std() < 1e-2:
        return
    whitened = ppo.whiten(values, mask)
    assert whitened[mask].numpy().mean() == pytest.approx(0, abs=1e-3)
    assert whitened[mask].numpy().std() == pytest.approx(1, abs=1e-2)
    assert whitened[~mask].eq(0).all()
    unshifted = ppo.whiten(values, mask, shift_mean=False)
    np.testing.assert_allclose(unshifted[mask] - whitened[mask], np.full(inside.shape, inside.mean()), atol=1e-3)


def test_whitening_removes_the_mean_unless_it_is_told_to_keep_it():
    values, mask = T([[1.0, 3.0]]), masks([2], 2)
    torch.testing.assert_close(ppo.whiten(values, mask), T([[-1.0, 1.0]]))
    torch.testing.assert_close(ppo.whiten(values, mask, shift_mean=False), T([[1.0, 3.0]]))


def test_equal_values_are_whitened_to_zero():
    assert ppo.whiten(T([[5.0, 5.0, 5.0]]), masks([2], 3)).tolist() == [[0.0, 0.0, 0.0]]


@given(batches(), st.floats(0.5, 8), st.floats(-4, 4))
def test_whitening_does_not_depend_on_scale_or_origin(batch, scale, origin):
    mask, values = batch
    if float(values[mask].std(correction=0)) < 1e-2:
        return
    torch.testing.assert_close(ppo.whiten(scale * values + origin, mask), ppo.whiten(values, mask), atol=2e-3, rtol=0)


# --- losses -----------------------------------------------------------------------------------------------------------


def ppo_loss(logprobs, old_logprobs, advantages, mask, cliprange):
    """PPO's loss with a symmetric clip range, as the mean over tokens."""
    return ppo.masked_mean(ppo.ppo_loss(logprobs, old_logprobs, advantages, mask, cliprange, cliprange)[0], mask)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.0, 2.0, -2.0),
        (1.5, 2.0, -2.4),  # a good token, more likely by over 0.2: clipped
        (0.5, 2.0, -1.0),  # a good token that became less likely: not clipped
        (0.5, -2.0, 1.6),  # a bad token, less likely by over 0.2: clipped
        (1.5, -2.0, 3.0),  # a bad token that became more likely: not clipped
    ],
)
def test_the_clipped_surrogate_equals_the_published_formula_in_each_case(ratio, advantage, expected):
    loss = ppo_loss(T([[math.log(ratio)]]), T([[0.0]]), T([[advantage]]), masks([1], 1), cliprange=0.2)
    assert float(loss) == pytest.approx(expected)


@pytest.mark.parametrize(("advantage", "sign"), [(1.0, 1), (-1.0, -1)])
def test_a_gradient_step_makes_good_tokens_more_likely_and_bad_ones_less_likely(advantage, sign):
    logits = torch.zeros(1, 1, 3, requires_grad=True)
    logprob = torch.log_softmax(logits, dim=-1)[:, :, 1]
    ppo_loss(logprob, logprob.detach(), T([[advantage]]), masks([1], 1), cliprange=0.2).backward()
    assert math.copysign(1, -float(logits.grad[0, 0, 1])) == sign


def test_a_good_token_beyond_the_clip_range_has_no_gradient():
    logprob = T([[math.log(1.3)]], requires_grad=True)
    ppo_loss(logprob, T([[0.0]]), T([[1.0]]), masks([1], 1), cliprange=0.2).backward()
    assert float(logprob.grad) == 0


@pytest.mark.parametrize(
    ("value", "target", "expected"),
    [
        (1.1, 2.0, 0.5 * 0.9**2),  # within 0.2 of the old value, 1: half the squared error
        (1.9, 2.0, 0.5 * 0.8**2),  # higher by over 0.2: the error of 1.2
        (0.1, 0.0, 0.5 * 0.8**2),  # lower by over 0.2: the error of 0.8
        (-1.0, 2.0, 0.5 * 3.0**2),  # further from the target than the old value: not clipped
    ],
)
def test_the_value_loss_is_clipped_toward_the_target_only(value, target, expected):
    loss = ppo.value_loss(T([[value]]), T([[1.0]]), T([[target]]), masks([1], 1), cliprange_value=0.2)
    assert float(loss) == pytest.approx(expected)


@given(batches(4))
def test_losses_and_metrics_do_not_depend_on_padding(batch):
    mask, new, old, advantages, returns = batch
    wide = [torch.cat([t, torch.full((len(t), 3), 5e5)], dim=1) for t in (new, old, advantages, returns)]
    wide_mask = torch.cat([mask, torch.zeros(len(mask), 3, dtype=torch.bool)], dim=1)

    def results(new, old, advantages, returns, mask):
        return torch.stack(
            [
                ppo_loss(new, old, advantages, mask, 0.2),
                ppo.value_loss(new, old, returns, mask, 0.2),
                ppo.approx_kl(new, old, mask),
                ppo.clip_fraction((new - old).exp(), mask, 0.2, 0.3),
                ppo.explained_variance(new, returns, mask),
                ppo.masked_mean(new, mask),
            ]
        )

    torch.testing.assert_close(results(*wide, wide_mask), results(new, old, advantages, returns, mask))


@given(batches(4), st.sampled_from([0.0, -7.0, 1e30, math.inf, -math.inf, math.nan]))
def test_no_number_outside_the_mask_changes_a_result(batch, number):
    mask, *inside = batch
    total = torch.arange(len(mask)) + 1.0

    def results(a, b, c, d):
        return (
            ppo.masked_mean(a, mask),
            ppo.kl_penalised_rewards(total, a, b, mask, 0.3),
            *ppo.gae(a, b, mask, 0.9, 0.8),
            ppo.whiten(a, mask),
            ppo.whiten(a, mask, shift_mean=False),
            ppo_loss(a, b, c, mask, 0.2),
            ppo.value_loss(a, b, d, mask, 0.2),
            ppo.approx_kl(a, b, mask),
            ppo.clip_fraction(a, mask, 0.2, 0.3),
            ppo.explained_variance(a, d, mask),
        )

    outside = [tensor.where(mask, number) for tensor in inside]
    for one, other in zip(results(*inside), results(*outside), strict=True):
        assert torch.equal(one, other)
        assert other.isfinite().all()


def test_a_ratio_that_overflows_outside_the_mask_has_no_gradient():
    new = T([[0.1, 500.0]], requires_grad=True)
    mask = masks([1], 2)
    loss = ppo_loss(new, T([[0.0, -500.0]]), T([[1.0, 1.0]]), mask, 0.2) + ppo.approx_kl(new, torch.zeros(1, 2), mask)
    loss.backward()
    assert torch.isfinite(new.grad).all()
    assert float(new.grad[0, 1]) == 0


# --- metrics ----------------------------------------------------------------------------------------------------------


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95))
@settings(max_examples=30)
def test_the_expectation_of_approx_kl_is_the_exact_kl_for_two_tokens(p, q):
    """The expectation under the old policy, a sum over both tokens, is KL(old || new)."""
    exact = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    each = [
        float(ppo.approx_kl(T([[math.log(new)]]), T([[math.log(old)]]), masks([1], 1)))
        for old, new in ((p, q), (1 - p, 1 - q))
    ]
    assert min(each) >= -1e-6
    assert p * each[0] + (1 - p) * each[1] == pytest.approx(exact, abs=1e-5)


def test_clip_fraction_is_the_share_of_tokens_outside_the_range():
    ratio = T([[1.0, 1.1, 1.3, 0.7]])
    assert float(ppo.clip_fraction(ratio, masks([4], 4), 0.2, 0.2)) == pytest.approx(0.5)
    assert float(ppo.clip_fraction(ratio, masks([4], 4), 0.2, 0.4)) == pytest.approx(0.25)
    assert float(ppo.clip_fraction(ratio, masks([4], 4), 0.4, 0.05)) == pytest.approx(0.5)


def test_a_ratio_on_the_edge_of_the_clip_range_is_not_counted():
    assert float(ppo.clip_fraction(torch.ones(1, 1), masks([1], 1), 0.0, 0.0)) == 0


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_values_of_half_the_returns_explain_three_quarters_of_their_variance(scale):
    returns, mask = scale * T([[0.0, 2.0, 99.0]]), masks([2], 3)
    assert float(ppo.explained_variance(returns / 2, returns, mask)) == pytest.approx(0.75)


def test_explained_variance_is_one_for_shifted_returns_and_zero_for_a_constant():
    returns, mask = T([[1.0, 2.0, 4.0, 99.0]]), masks([3], 4)
    assert float(ppo.explained_variance(returns + 5, returns, mask)) == pytest.approx(1)
    assert float(ppo.explained_variance(torch.full((1, 4), 3.0), returns, mask)) == pytest.approx(0)


def test_the_adaptive_coefficient_moves_toward_the_target_with_its_relative_error_clipped_at_a_fifth():
    # relative error 0.1, 512 episodes of a horizon of 10,000
    assert ppo.adapted_kl_coef(0.1, kl=6.6, target=6, episodes=512, horizon=10_000) == pytest.approx(0.1 * 1.00512)
    assert ppo.adapted_kl_coef(0.1, kl=60, target=6, episodes=512, horizon=10_000) == pytest.approx(0.1 * 1.01024)
    assert ppo.adapted_kl_coef(0.1, kl=0, target=6, episodes=512, horizon=10_000) == pytest.approx(0.1 * 0.98976)
