"""The accuracy of reward models on held-out rankings, on scores written by hand."""

import math

import pytest
import torch

from rlhf import InputError
from stages.experiments.accuracy import Rankings, accuracies, read_rankings
from stages.experiments.variants import Runs

NAN = math.nan
SCORES = torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 0.0]])
ROWS = [
    {"ranks": [0, 1, 2], "quality": [9.0, 5.0, 1.0], "swapped": [False, False, True]},
    {"ranks": [0, 1], "quality": [4.0, 4.0], "swapped": [False, True]},
]
RANKS = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, NAN]])


def test_accuracies_are_shares_of_the_pairs_of_each_ranking():
    # of the first ranking two of three pairs are ordered correctly, of the second none
    assert accuracies([SCORES], RANKS)[0].tolist() == pytest.approx([2 / 3, 0.0])


def test_the_order_is_that_of_true_quality_if_it_is_known():
    order = Rankings(ROWS, [], RANKS, 0).order()
    # the second ranking has no pair: its completions are equally good
    assert accuracies([SCORES, -SCORES], order)[:, 0].tolist() == pytest.approx([2 / 3, 1 / 3])
    without_quality = [{"ranks": row["ranks"]} for row in ROWS]
    assert Rankings(without_quality, [], RANKS, 0).order() is RANKS


def test_pairs_with_a_completion_of_another_prompt_can_be_left_out_or_counted_alone():
    rankings = Rankings(ROWS, [], RANKS, 0)
    assert accuracies([SCORES], rankings.own()).tolist() == [[1.0]]  # 9 before 5
    others = accuracies([SCORES], rankings.order(), without=rankings.own())
    assert others.tolist() == [[0.5]]  # 9 before 1, but not 5 before 1


def test_rankings_without_a_pair_are_an_error():
    with pytest.raises(InputError, match="no two completions of a held-out ranking differ in quality"):
        accuracies([SCORES], torch.zeros(2, 3))


def test_a_run_without_held_out_rankings_is_an_error_that_names_the_option(tmp_path):
    (tmp_path / "test.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="test_count above 0"):
        read_rankings(Runs(tmp_path), tmp_path / "test.jsonl")
