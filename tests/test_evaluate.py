"""Estimates and their intervals agree with closed forms and with the loss of transformers' models."""

import math

import numpy as np
import pytest
import torch

from rlhf.evaluate import (
    best_of_n_kl,
    length_controlled_win_rate,
    perplexity,
    preferences,
    ratio_estimate,
    sequence_logprobs,
    tie_rate,
    win_rate,
)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=900)
    estimate = ratio_estimate(values, draws=20_000)
    half = 1.96 * values.std(ddof=1) / 30
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.02)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.02)


def test_a_95_percent_interval_contains_the_true_mean_in_90_to_99_percent_of_samples():
    rng, count = np.random.default_rng(1), 0
    for _ in range(300):
        estimate = ratio_estimate(rng.random(200) < 0.7, draws=400)
        count += estimate.low <= 0.7 <= estimate.high
    assert 0.90 < count / 300 < 0.99


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios():
    assert ratio_estimate([1, 0], [1, 9]).value == 0.1


def test_win_rate_counts_a_tie_half():
    assert win_rate([3, 2, 1, 5], [1, 2, 3, 4]).value == pytest.approx((1 + 0.5 + 0 + 1) / 4)


def test_win_rate_leaves_out_prompts_with_an_unknown_score():
    assert win_rate([3, math.nan, 1, 1], [1, 2, math.nan, 3]).value == pytest.approx(1 / 2)
    assert win_rate([math.nan], [1]) is None


def test_the_share_of_ties_leaves_out_prompts_with_an_unknown_score():
    preference = preferences([3, 2, 1, math.nan], [1, 2, 1, 4]).tolist()
    assert preference[:3] == [1, 0.5, 0.5]
    assert tie_rate(preference).value == pytest.approx(2 / 3)
    assert tie_rate([math.nan]) is None


def cells(*counts):
    """Preferences and length differences from (difference, wins, losses) of groups of prompts."""
    wins = [win for _, won, lost in counts for win in [1.0] * won + [0.0] * lost]
    return wins, [float(difference) for difference, won, lost in counts for _ in range(won + lost)]


def test_the_length_controlled_win_rate_is_a_half_if_length_alone_decides():
    """Nine of ten longer answers win and nine of ten shorter ones lose: logit 0.9 + logit 0.1 = 0."""
    wins, lengths = cells((1, 2700, 300), (-1, 100, 900))
    assert np.mean(wins) == 0.7
    estimate = length_controlled_win_rate(wins, lengths)
    assert estimate.value == pytest.approx(0.5, abs=5e-3)  # the prior of the slope moves it a little
    assert 0.4 < estimate.low < 0.5 < estimate.high < 0.6


def test_the_length_controlled_win_rate_is_the_win_rate_if_length_does_not_matter():
    wins, lengths = cells((-2, 70, 30), (-1, 7, 3), (1, 70, 30), (30, 49, 21))
    assert length_controlled_win_rate(wins, lengths).value == pytest.approx(0.7)


def test_the_length_controlled_win_rate_is_that_of_the_mean_of_the_logits_of_two_lengths():
    wins, lengths = cells((5, 800, 200), (-5, 400, 600))
    odds = math.sqrt(0.8 / 0.2 * 0.4 / 0.6)
    assert length_controlled_win_rate(wins, lengths).value == pytest.approx(odds / (1 + odds), abs=2e-3)


def test_the_length_controlled_win_rate_is_what_torch_finds_for_the_same_logistic_regression():
    rng = np.random.default_rng(3)
    lengths = rng.normal(10, 40, size=60)
    wins = rng.choice([0.0, 0.5, 1.0], size=60, p=[0.1, 0.2, 0.7])
    x = torch.tensor(np.tanh(lengths / lengths.std()))
    intercept, slope = parameters = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.LBFGS(parameters, max_iter=200, tolerance_grad=1e-10, tolerance_change=0.0)

    def loss():
        optimizer.zero_grad()
        logits = intercept + slope * x
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(wins), reduction="sum")
        (total := losses + slope**2 / 2).backward()
        return total

    optimizer.step(loss)
    assert length_controlled_win_rate(wins, lengths).value == pytest.approx(intercept.sigmoid().item(), abs=1e-6)


def test_a_length_controlled_win_rate_does_not_depend_on_the_unit_of_length():
    wins, lengths = cells((1, 5, 2), (4, 9, 2), (-3, 1, 6))
    again = length_controlled_win_rate(wins, [100 * length for length in lengths])
    assert again.value == pytest.approx(length_controlled_win_rate(wins, lengths).value)


@pytest.mark.parametrize("wins", [[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0], [0.5, 0.5, 0.5, 0.5]])
def test_a_length_controlled_win_rate_of_answers_of_equal_length_is_the_win_rate(wins):
    assert length_controlled_win_rate(wins, [0, 0, 0, 0]).value == pytest.approx(np.mean(wins))


def test_a_length_controlled_win_rate_is_finite_if_lengths_separate_wins_from_losses():
    estimate = length_controlled_win_rate([1, 1, 1, 0, 0, 0, math.nan], [3, 2, 1, -1, -2, -3, 9])
    assert estimate.value == pytest.approx(0.5)
    assert 0 <= estimate.low <= 0.5 <= estimate.high <= 1


def test_there_is_no_length_controlled_win_rate_if_all_answers_are_longer_by_the_same_length():
    assert length_controlled_win_rate([1, 0], [4, 4]) is None
    assert length_controlled_win_rate([math.nan], [4]) is None


def test_best_of_n_kl_is_exact_for_a_distribution_that_can_be_listed():
    """The distribution of the best of n among many equally likely answers is known, so its KL is a sum."""
    n, answers = 4, 20_000
    rank = np.arange(1, answers + 1) / answers
    best = rank**n - (rank - 1 / answers) ** n
    assert best_of_n_kl(n) == pytest.approx((best * np.log(best * answers)).sum(), abs=1e-3)
    assert best_of_n_kl(1) == 0


def test_perplexity_agrees_with_the_loss_of_transformers(policy):
    documents = [[5, 6, 7, 0], [8, 9, 10, 11, 12, 13, 0], [14, 0]]
    total = tokens = 0
    for ids in documents:
        row = torch.tensor([ids])
        total += policy(input_ids=row, labels=row).loss.item() * (len(ids) - 1)
        tokens += len(ids) - 1
    assert perplexity(policy, documents, pad_id=1) == pytest.approx(math.exp(total / tokens), rel=1e-4)


def test_sequence_logprobs_sum_the_tokens_from_the_start_on(policy):
    sequence = [5, 6, 7, 8, 9]
    logprobs = policy(input_ids=torch.tensor([sequence])).logits[0].log_softmax(-1)
    expected = sum(logprobs[t - 1, sequence[t]].item() for t in (3, 4))
    result = sequence_logprobs(policy, [sequence, [4, 4, 4, 4, 4, 4, 4]], [3, 1], pad_id=1)
    assert result[0] == pytest.approx(expected, abs=1e-4)
