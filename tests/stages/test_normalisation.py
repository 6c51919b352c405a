"""The sample of sequences whose scores decide the normalisation of a reward model."""

import random

from stages.reward import NORMALISED_ON, _subset


def test_few_items_are_all_used_and_of_many_a_random_sample():
    assert _subset([3, 1, 2], random.Random(0)) == [3, 1, 2]
    many = list(range(100_000))
    sample = _subset(many, random.Random(0))
    assert len(set(sample)) == NORMALISED_ON
    # three standard errors, which are 1/64 of the standard deviation of a uniform distribution
    assert abs(sum(sample) / NORMALISED_ON - 49_999.5) < 3 * 100_000 / 12**0.5 / 64
    assert sample == _subset(many, random.Random(0)) != _subset(many, random.Random(1))
