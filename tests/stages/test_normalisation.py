"""The sample of sequences whose scores decide the normalisation of a reward model."""

import random

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets

from stages import reward
from stages.reward import NORMALISED_ON, _subset, completion_counts, some_sequences


def test_few_items_are_all_used_and_of_many_a_random_sample():
    assert _subset([3, 1, 2], random.Random(0)) == [3, 1, 2]
    many = list(range(100_000))
    sample = _subset(many, random.Random(0))
    assert len(set(sample)) == NORMALISED_ON
    # three standard errors, which are 1/64 of the standard deviation of a uniform distribution
    assert abs(sum(sample) / NORMALISED_ON - 49_999.5) < 3 * 100_000 / 12**0.5 / 64
    assert sample == _subset(many, random.Random(0)) != _subset(many, random.Random(1))


@pytest.mark.parametrize("most", [1, 5, 1000])
def test_the_sample_is_drawn_from_the_flat_list_of_the_sequences_of_all_rows(monkeypatch, most):
    monkeypatch.setattr(reward, "NORMALISED_ON", most)
    numbers = np.random.default_rng(0)
    rows = [
        {"sequences": [[i, k] for k in range(count)], "ranks": list(range(count))}
        for i, count in enumerate(numbers.integers(2, 6, 30))
    ]
    dataset = concatenate_datasets([Dataset.from_list(rows[:7]), Dataset.from_list(rows[7:])])
    flat = [sequence for row in rows for sequence in row["sequences"]]
    assert completion_counts(dataset).sum() == len(flat)
    expected = random.Random(3).sample(flat, most) if most < len(flat) else flat
    assert some_sequences(dataset, random.Random(3)) == expected
