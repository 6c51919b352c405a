"""Numbers with their intervals, checked against scipy-free closed forms and the models' own losses."""

import math

import numpy as np
import pytest
import torch

from rlhf.evaluate import best_of_n_kl, perplexity, ratio_estimate, sequence_logprobs, win_rate
from rlhf.report import draw_training, metrics_table


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=900)
    estimate = ratio_estimate(values, draws=20_000)
    half = 1.96 * values.std(ddof=1) / 30
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.02)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.02)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng, held = np.random.default_rng(1), 0
    for _ in range(300):
        estimate = ratio_estimate(rng.random(200) < 0.7, draws=400)
        held += estimate.low <= 0.7 <= estimate.high
    assert 0.90 < held / 300 < 0.99


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios():
    assert ratio_estimate([1, 0], [1, 9]).value == 0.1


def test_win_rate_counts_a_tie_half():
    assert win_rate([3, 2, 1, 5], [1, 2, 3, 4]).value == pytest.approx((1 + 0.5 + 0 + 1) / 4)


def test_win_rate_leaves_out_prompts_that_nobody_could_judge():
    assert win_rate([3, math.nan, 1, 1], [1, 2, math.nan, 3]).value == pytest.approx(1 / 2)
    assert win_rate([math.nan], [1]) is None


def test_best_of_n_kl_is_the_exact_one_on_a_listed_distribution():
    """The best of n of many equally likely answers: its distribution is known, so its KL is a sum."""
    n, answers = 4, 20_000
    rank = np.arange(1, answers + 1) / answers
    best = rank**n - (rank - 1 / answers) ** n
    assert best_of_n_kl(n) == pytest.approx((best * np.log(best * answers)).sum(), abs=1e-3)
    assert best_of_n_kl(1) == 0


def test_perplexity_is_that_of_the_models_own_loss(policy):
    documents = [[5, 6, 7, 0], [8, 9, 10, 11, 12, 13, 0], [14, 0]]
    total = tokens = 0
    for ids in documents:
        one = torch.tensor([ids])
        total += policy(input_ids=one, labels=one).loss.item() * (len(ids) - 1)
        tokens += len(ids) - 1
    assert perplexity(policy, documents, pad_id=1) == pytest.approx(math.exp(total / tokens), rel=1e-4)


def test_sequence_logprobs_begin_where_they_are_told(policy):
    sequence = [5, 6, 7, 8, 9]
    logprobs = policy(input_ids=torch.tensor([sequence])).logits[0].log_softmax(-1)
    expected = sum(logprobs[t - 1, sequence[t]].item() for t in (3, 4))
    both = sequence_logprobs(policy, [sequence, [4, 4, 4, 4, 4, 4, 4]], [3, 1], pad_id=1)
    assert both[0] == pytest.approx(expected, abs=1e-4)


def test_the_picture_is_drawn_with_whatever_numbers_there_are(tmp_path):
    draw_training([{"step": 1, "score": 0.1, "kl": 0.0}, {"step": 2, "score": 0.2, "kl": 0.1}], tmp_path / "ppo.png")
    assert (tmp_path / "ppo.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_a_row_for_each_number_and_leaves_out_what_is_not_known():
    table = metrics_table(
        {"sft": {"gold": 3.0, "gold_low": 2.5, "gold_high": 3.5}, "ppo": {"kl": 1.0}, "seconds": {"ppo": 3}}
    )
    lines = table.splitlines()
    assert len(lines) == 4
    assert "3.00 [2.50, 3.50]" in lines[2] and "seconds" not in table
