"""Estimates over seeds and prompts, tables as files, and best-of-n from a pool of answers."""

import itertools

import numpy as np
import pytest

from rlhf.evaluate import Estimate
from stages.experiments.answers import best_of
from stages.experiments.output import as_lines, interval, read_table, write_table
from stages.experiments.results import estimate, row_of, sqrt_kl


def test_an_estimate_is_the_mean_and_its_interval_holds_the_spread_of_seeds_and_prompts():
    same = estimate(np.full((3, 5), 2.0))
    assert (same.value, same.low, same.high) == (2.0, 2.0, 2.0)
    seeds = estimate(np.array([[1.0] * 9, [2.0] * 9, [3.0] * 9]))
    assert seeds.value == 2.0 and seeds.low < 1.4 and seeds.high > 2.6


def test_a_difference_is_paired_by_prompt():
    prompts = np.arange(50.0)[None]
    difference = estimate(prompts + 1, prompts)
    assert difference.value == pytest.approx(1.0)
    # alone, each mean would vary by two
    assert difference.low == pytest.approx(1.0) and difference.high == pytest.approx(1.0)


def test_the_square_root_of_an_estimate_below_zero_is_zero():
    assert (sqrt_kl(4.0), sqrt_kl(-0.1)) == (2.0, 0.0)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_is_the_mean_over_all_subsets(n):
    rng = np.random.default_rng(n)
    scores, values = rng.normal(size=(2, 5)), rng.normal(size=(2, 5))
    expected = []
    for row in range(2):
        subsets = list(itertools.combinations(range(5), n))
        best = [max(subset, key=lambda i: scores[row, i]) for subset in subsets]
        expected.append(np.mean([values[row, i] for i in best]))
    np.testing.assert_allclose(best_of(scores, values, n), expected, rtol=1e-12)


def test_a_table_that_is_read_again_has_the_same_numbers(tmp_path):
    rows = [row_of(name="a", gold=Estimate(1.23456789, 1.0, 2.0), n=3), row_of(name="b,c", kl=1e-9)]
    write_table(tmp_path / "t.csv", rows)
    assert read_table(tmp_path / "t.csv") == [
        {"name": "a", "gold": 1.23457, "gold_low": 1.0, "gold_high": 2.0, "n": 3.0},
        {"name": "b,c", "kl": 1e-9},
    ]
    assert as_lines(rows)[0].split() == ["name", "gold", "n", "kl"]
    assert interval(rows[0], "gold") == "1.23 [1.00, 2.00]"
