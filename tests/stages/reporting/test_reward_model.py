"""The numbers of the section on the reward model, against hand calculations."""

import math

import pytest

from stages.reporting.reward_model import (
    accuracy,
    breakdowns,
    by_length,
    calibration,
    gold_by_labeller,
    gold_by_score,
    pairs_of,
)


def ranking(ranks, scores, lengths=None, **columns):
    lengths = lengths or [1] * len(ranks)
    return {
        "prompt": "p",
        "task": None,
        "completions": ["a"] * len(ranks),
        "ranks": ranks,
        "scores": scores,
        "lengths": lengths,
        **columns,
    }


def test_a_tie_is_no_pair():
    assert len(pairs_of([ranking([0, 1, 1, 2], [0.0] * 4)])) == 5


def test_accuracy_is_the_share_of_pairs_ordered_right_and_equal_scores_count_half():
    # pairs of the first ranking: 0>1 right, 0>2 right, 1>2 wrong; of the second: equal scores
    found, count = accuracy(pairs_of([ranking([0, 1, 2], [3.0, 1.0, 2.0]), ranking([1, 0], [5.0, 5.0])]))
    assert count == 4
    assert found.value == pytest.approx(2.5 / 4)
    assert 0.5 <= found.low <= found.value <= found.high <= 2 / 3 + 1e-9  # a resample has shares between 1/2 and 2/3


def test_length_alone_prefers_the_longer_answer():
    found, _ = accuracy(pairs_of([ranking([0, 1, 2], [0.0] * 3, [5, 9, 2])]), by_length)
    assert found.value == pytest.approx(2 / 3)  # 5 < 9 wrong, 5 > 2 right, 9 > 2 right


def test_agreement_with_gold_leaves_out_pairs_of_equal_or_unknown_quality():
    pairs = pairs_of([ranking([0, 1, 2, 3], [4.0, 3.0, 2.0, 1.0], quality=[5.0, 7.0, 5.0, None])])
    score, count = accuracy(pairs, gold_by_score)
    # known and different: (0, 1), where gold prefers 1, and (1, 2), where it prefers 1
    assert (score.value, count) == (0.5, 2)
    assert accuracy(pairs, gold_by_labeller)[0].value == 0.5


def test_a_model_whose_probabilities_come_true_has_no_calibration_error():
    # log-odds ln 3 is a probability of 3/4; three of four such pairs are ordered right
    right, wrong = ranking([0, 1], [math.log(3), 0.0]), ranking([1, 0], [math.log(3), 0.0])
    curve, error = calibration(pairs_of([right, right, right, wrong]))
    assert curve == [(pytest.approx(0.75), 0.75, 4)]
    assert error == pytest.approx(0.0)


def test_the_calibration_error_of_a_model_that_is_too_sure():
    # sure (probability 1) and right half of the time: error 0.5; beside as many pairs without an opinion: error 0 or 0.5 each
    sure = [ranking([0, 1], [1000.0, 0.0]), ranking([1, 0], [1000.0, 0.0])]
    equal = [ranking([0, 1], [0.0, 0.0])] * 2  # probability 1/2, and half right
    _, error = calibration(pairs_of([*sure, *equal]))
    assert error == pytest.approx(0.25)


def test_every_breakdown_divides_all_pairs():
    rows = [ranking([0, 1, 2], [3.0, 1.0, 2.0], [i, 5, 2 * i], task=f"t{i % 2}") for i in range(9)]
    rows.append(ranking([0, 1], [1.0, 0.0], task="t0"))
    groups = breakdowns(pairs_of(rows))
    assert set(groups) == {
        "By margin: difference of ranks",
        "By length: preferred minus other, tokens",
        "By task",
        "By K, the completions of a ranking",
    }
    assert {sum(map(len, parts.values())) for parts in groups.values()} == {28}
    assert {label: len(part) for label, part in groups["By margin: difference of ranks"].items()} == {"1": 19, "2": 9}
