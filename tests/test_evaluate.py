"""Estimates and their intervals agree with closed forms and with the loss of transformers' models."""

import math

import numpy as np
import pytest
import torch

from rlhf.evaluate import best_of_n_kl, perplexity, ratio_estimate, sequence_logprobs, win_rate


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
