"""The learning curve of a reward model, and how many more rankings it says would help."""

import pytest
import torch

from rlhf.evaluate import Estimate, Point, measure_curve, more_needed
from stages.reward import in_words


def curve(*accuracies, rankings=(16, 32, 64), half_width=0.06):
    """Points whose intervals all have the same half width."""
    return [Point(n, Estimate(a, a - half_width, a + half_width)) for n, a in zip(rankings, accuracies, strict=True)]


@pytest.mark.parametrize(
    ("accuracies", "more"),
    [
        ((0.50, 0.52, 0.54), 64),  # .02 for each doubling, and .02 are missing: one doubling of 64
        ((0.48, 0.50, 0.52), 192),  # .04 are missing: two doublings
        ((0.50, 0.50, 0.50), None),
        ((0.54, 0.52, 0.50), None),
        ((0.500, 0.501, 0.502), None),  # 58 doublings
    ],
)
def test_the_number_that_is_missing_follows_from_the_rise_with_each_doubling(accuracies, more):
    assert more_needed(curve(*accuracies)) == more


def test_what_is_said_depends_on_chance_and_on_the_rise():
    assert len(in_words(curve(0.7, 0.75, 0.8))) == 1
    assert "about 64 more rankings may" in in_words(curve(0.50, 0.52, 0.54))[1]
    assert "can't tell how many more rankings would help, because it" in in_words(curve(0.5, 0.5, 0.5))[1]
    assert "there are too few to train on parts of them" in in_words(curve(0.5, rankings=(3,)))[1]


def test_the_parts_of_a_size_have_no_ranking_in_common_and_their_counts_are_added():
    asked = []

    def train_on(indices):
        asked.append(list(indices))
        return torch.tensor([float(len(indices)), 0.0]), torch.tensor([20, 20])

    points = measure_curve(20, train_on, seed=0)
    assert [len(part) for part in asked] == [5, 5, 5, 5, 10, 10]
    assert sorted(sum(asked[:4], [])) == sorted(sum(asked[4:], [])) == list(range(20))
    assert [(point.rankings, point.accuracy.value) for point in points] == [(5, 5 / 40), (10, 10 / 40)]
    assert measure_curve(3, train_on, seed=0) == []
