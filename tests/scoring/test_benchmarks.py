"""Accuracies on benchmarks of reward models agree with scores worked out by hand from their published definitions."""

import math

import numpy as np
import pytest

from rlhf.scoring.benchmarks import Item, benchmark_metrics, best_of_n, pair_counts, ties_score, ties_terms


def item(subset, count, chosen=1, listed=False, name=""):
    return Item(subset, "p", ["c"] * count, chosen, listed, name)


def group(chosen, rejected):
    return np.array(chosen, dtype=float), np.array(rejected, dtype=float)


@pytest.mark.parametrize(
    ("chosen", "rejected", "correct", "best"),
    [([2], [1], 1, 1), ([1], [2], 0, 0), ([1], [1], 0.5, 0.5), ([1], [1, 0, 1], 2, 1 / 3), ([0, 3], [2, 1], 2, 1)],
)
def test_pairs_and_the_best_of_n_by_hand(chosen, rejected, correct, best):
    assert pair_counts(*group(chosen, rejected)) == (correct, len(chosen) * len(rejected))
    assert best_of_n(*group(chosen, rejected)) == pytest.approx(best)


def test_the_mean_is_over_subsets_and_not_over_rows():
    items = [item("a", 2), item("a", 2), item("b", 2)]
    metrics = benchmark_metrics(items, [[1, 0], [0, 1], [1, 0]])
    assert metrics["subsets"]["a"]["score"] == metrics["subsets"]["a"]["pair_accuracy"] == 0.5
    assert metrics["subsets"]["b"]["score"] == 1
    assert metrics["mean"] == 0.75
    assert metrics["rows"] == 3
    assert (metrics["subsets"]["a"]["score_low"], metrics["subsets"]["a"]["score_high"]) == (0, 1)


def test_the_score_of_a_list_is_its_best_of_n_beside_which_all_pairs_count():
    metrics = benchmark_metrics([item("a", 4, listed=True)] * 2, [[3, 4, 1, 0], [3, 2, 1, 0]])
    assert metrics["subsets"]["a"]["best_of_n"] == metrics["subsets"]["a"]["score"] == 0.5
    assert metrics["subsets"]["a"]["pair_accuracy"] == pytest.approx(5 / 6)


def test_the_interval_of_the_mean_is_that_of_independent_subsets():
    rng = np.random.default_rng(0)
    right = rng.random((2, 400)) < 0.5
    items = [item(subset, 2) for subset in ("a", "b") for _ in range(400)]
    metrics = benchmark_metrics(items, [[float(r), 0.5] for r in right.flatten()])
    assert metrics["mean_high"] - metrics["mean_low"] == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(800), rel=0.1)


TIES = {
    "tied:1": group([5, 4], [2, 1]),  # gap 2, spread 1
    "ref:1": group([3], [1]),  # gap 2
    "tied:2": group([5, 1], [0]),  # gap 1, spread 4
    "ref:2": group([0], [1]),  # gap -1
}


def test_the_score_of_ties_by_hand():
    terms = ties_terms(TIES)
    assert terms["tied"].tolist() == [1, 1]
    assert terms["ref"].tolist() == [1, 0]
    assert terms["preferred"].tolist() == terms["preferred_hard"].tolist() == [1, 0]
    assert terms["margin"].tolist() == pytest.approx([math.tanh(1), math.tanh(-1.25)])
    expected = 0.3 * 1 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * (math.tanh(1) + math.tanh(-1.25)) / 2
    assert ties_score(terms)(np.ones((1, 2)))[0] == pytest.approx(expected)
    names = list(TIES)
    items = [item("Ties", 0, len(TIES[name][0]), True, name) for name in names]
    metrics = benchmark_metrics(items, [[*TIES[name][0], *TIES[name][1]] for name in names])
    assert metrics["subsets"]["Ties"]["score"] == metrics["subsets"]["Ties"]["ties_score"] == pytest.approx(expected)


def test_the_smaller_gap_of_both_rows_counts_for_the_hard_preference():
    terms = ties_terms({"tied:1": group([5, 4], [2]), "ref:1": group([1], [0.5])})
    assert (terms["preferred"].tolist(), terms["preferred_hard"].tolist()) == ([1], [0])


def test_a_row_of_ties_without_its_partner_counts_for_accuracy_only():
    terms = ties_terms({**TIES, "tied:3": group([2, 2], [5])})
    assert terms["tied"].tolist() == [1, 1, 0]
    assert all(math.isnan(terms[name][2]) for name in ("ref", "preferred", "preferred_hard", "margin"))


@pytest.mark.parametrize(("gap", "margin"), [(2, 1), (0, 0), (-2, -1)])
def test_right_answers_of_equal_score_have_the_largest_margin(gap, margin):
    terms = ties_terms({"tied:1": group([gap, gap], [0]), "ref:1": group([gap], [0])})
    assert terms["margin"].tolist() == [margin]
