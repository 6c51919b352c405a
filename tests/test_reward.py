"""The K-way ranking loss and the pair accuracy, and scores with their normalisation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

from rlhf.classifiers import Scorer
from rlhf.models import load_scorer
from rlhf.reward import (
    RankingCollator,
    better_pairs,
    by_prompt,
    pad_ranks,
    pair_accuracy,
    ranking_loss,
    score_sequences,
    set_normalisation,
)
from tests.classifiers import tiny_classifier
from tests.conftest import scorer_of

nan = float("nan")

# prompts, each a list of (score, rank) with at least two ranks
rankings = st.lists(
    st.lists(st.tuples(st.floats(-5, 5, width=32), st.integers(0, 3)), min_size=2, max_size=5).filter(
        lambda row: len({rank for _, rank in row}) > 1
    ),
    min_size=1,
    max_size=4,
)


def tensors(rows):
    """Scores (B, K) and ranks (B, K) of rows of (score, rank); the score is 1e9 where there is no completion."""
    ranks = pad_ranks([[rank for _, rank in row] for row in rows])
    scores = torch.full_like(ranks, 1e9)
    for i, row in enumerate(rows):
        scores[i, : len(row)] = torch.tensor([score for score, _ in row])
    return scores, ranks


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_of_three_completions_equals_a_calculation_by_hand():
    # pairs: 0 beats 1 (2 - 1), 0 beats 2 (2 - 0), 1 beats 2 (1 - 0)
    expected = sum(math.log1p(math.exp(-d)) for d in (1, 2, 1)) / 3
    loss = ranking_loss(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]]))
    assert float(loss) == pytest.approx(expected)


@given(rankings)
def test_the_loss_is_the_mean_over_prompts_of_the_mean_over_untied_pairs(rows):
    each = []
    for row in rows:
        pairs = [(a - b) for a, rank_a in row for b, rank_b in row if rank_a < rank_b]
        each.append(sum(math.log1p(math.exp(-d)) for d in pairs) / len(pairs))
    assert float(ranking_loss(*tensors(rows))) == pytest.approx(sum(each) / len(each), rel=1e-4)


@given(rankings, st.randoms())
def test_the_loss_does_not_depend_on_the_order_of_completions_or_prompts(rows, random):
    shuffled = [random.sample(row, len(row)) for row in random.sample(rows, len(rows))]
    assert float(ranking_loss(*tensors(shuffled))) == pytest.approx(float(ranking_loss(*tensors(rows))), rel=1e-4)


@given(rankings, st.floats(-3, 3, width=32))
def test_the_loss_does_not_depend_on_a_shift_of_all_scores_or_on_scores_without_a_completion(rows, shift):
    scores, ranks = tensors(rows)
    shifted = (scores + shift).where(~ranks.isnan(), -7.0)
    torch.testing.assert_close(ranking_loss(shifted, ranks), ranking_loss(scores, ranks), atol=1e-5, rtol=1e-4)


def test_ties_and_missing_completions_give_no_pair():
    better = better_pairs(torch.tensor([[0.0, 1.0, 1.0, nan]]))[0]
    assert better.nonzero().tolist() == [[0, 1], [0, 2]]


def test_prompts_with_two_and_with_four_completions_have_the_same_weight():
    two, four = [(0.0, 0), (0.0, 1)], [(1.0, 0), (0.0, 1), (0.0, 2), (0.0, 3)]
    alone = [float(ranking_loss(*tensors([row]))) for row in (two, four)]
    assert float(ranking_loss(*tensors([two, four]))) == pytest.approx(sum(alone) / 2)


def test_a_gradient_step_raises_the_better_score_and_lowers_the_worse():
    scores = torch.zeros(1, 2, requires_grad=True)
    ranking_loss(scores, torch.tensor([[1.0, 0.0]])).backward()
    assert scores.grad[0, 0] > 0 > scores.grad[0, 1]  # the second is better


# --- pair accuracy ----------------------------------------------------------------------------------------------------


def test_pair_accuracy_counts_equal_scores_half():
    correct, pairs = pair_accuracy(torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([[0.0, 1.0, 2.0]]))
    assert (float(correct), int(pairs)) == (2.5, 3)


def test_pair_accuracy_is_counted_for_each_prompt():
    scores, ranks = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    correct, pairs = pair_accuracy(scores, ranks)
    assert (correct.tolist(), pairs.tolist()) == ([1.0, 0.0], [1, 1])


@given(rankings)
def test_pair_accuracy_counts_untied_pairs_only(rows):
    correct, pairs = pair_accuracy(*tensors(rows))
    for i, row in enumerate(rows):
        untied = [(a, b) for a, rank_a in row for b, rank_b in row if rank_a < rank_b]
        assert int(pairs[i]) == len(untied)
        assert float(correct[i]) == sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in untied)


def test_scores_in_the_order_of_the_collator_are_put_beside_their_ranks():
    rows = [{"sequences": [[5], [6]], "ranks": [0, 1]}, {"sequences": [[7], [8], [9]], "ranks": [2, 0, 1]}]
    batch = RankingCollator(pad_token_id=1)(rows)
    scores = by_prompt(batch["input_ids"][:, 0].float(), batch["ranks"])
    assert scores.tolist() == [[5, 6, 0], [7, 8, 9]]


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_of_a_batch_are_those_of_transformers_for_each_sequence_alone(policy):
    scorer = scorer_of(policy)
    sequences = [[5, 6, 7, 0], [8, 0], [9, 10, 11, 12, 13, 0]]
    scores = score_sequences(scorer, sequences, pad_id=1, batch_size=3)
    for score, ids in zip(scores, sequences, strict=True):
        expected = scorer.model(input_ids=torch.tensor([ids])).logits[0, 0]
        torch.testing.assert_close(score, expected, atol=1e-5, rtol=1e-5)


def test_sequences_are_batched_by_length_and_scored_once():
    masks = []

    class RecordingScorer(Scorer):
        def forward(self, input_ids, attention_mask, index):
            masks.append(attention_mask.tolist())
            return super().forward(input_ids, attention_mask, index)

    sequences = [[5, 0], [6, 7, 0], [8, 0], [9, 10, 0], [11, 0]]
    score_sequences(RecordingScorer(tiny_classifier()), sequences, pad_id=1, batch_size=2)
    # the longest first, so that memory that a batch has freed has room for the next one
    assert [[sum(row) for row in mask] for mask in masks] == [[3], [2, 3], [2, 2]]


def test_sequences_are_moved_to_the_device_of_the_model():
    class OnMeta(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, device="meta"))

        def forward(self, input_ids, attention_mask, index):
            raise RuntimeError(input_ids.device.type, attention_mask.device.type)

    with pytest.raises(RuntimeError, match="'meta', 'meta'"):
        score_sequences(OnMeta(), [[5, 0]], pad_id=1)


# --- normalisation ----------------------------------------------------------------------------------------------------


def test_normalisation_is_saved_with_the_model_and_applied_when_it_is_loaded(tmp_path):
    scorer = Scorer(tiny_classifier())
    sequences = [[5, 6, 7, 0], [8, 0], [9, 10, 11, 12, 13, 0], [14, 15, 0]]
    raw = score_sequences(scorer, sequences, pad_id=1)
    set_normalisation(scorer, float(raw.mean()), float(raw.std()))
    scorer.save_pretrained(tmp_path)
    scores = score_sequences(load_scorer(tmp_path), sequences, pad_id=1)
    assert float(scores.mean()) == pytest.approx(0, abs=1e-5)
    assert float(scores.std()) == pytest.approx(1, abs=1e-5)
    # to transformers it is an ordinary classifier, with the scores as they were trained
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(plain(input_ids=torch.tensor([sequences[1]])).logits[0, 0], raw[1], atol=1e-5, rtol=1e-5)


def test_a_second_normalisation_applies_to_the_normalised_scores():
    scorer = Scorer(tiny_classifier())
    sequences = [[5, 6, 0], [7, 0]]
    raw = score_sequences(scorer, sequences, pad_id=1)
    set_normalisation(scorer, 1.0, 2.0)
    set_normalisation(scorer, 3.0, 4.0)
    expected = ((raw - 1) / 2 - 3) / 4
    torch.testing.assert_close(score_sequences(scorer, sequences, pad_id=1), expected)
