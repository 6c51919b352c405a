"""A simulated labeller, which ranks completions by their true quality with noise."""

import math
import random
from collections.abc import Sequence


def rank(
    completions: Sequence[str], quality: Sequence[float], noise: float, margin: float, rng: random.Random
) -> list[int]:
    """Draws a ranking from the Plackett-Luce model with worths exp(quality / noise).

    Returns one rank per completion; 0 is the best, and equal ranks tie. With margin 0 the better of two completions is
    preferred with probability sigmoid(difference / noise). With noise 0 the ranking is exact and nothing is drawn from
    `rng`. A completion ties with the next better one if their noisy qualities differ by at most `margin`; so a chain of
    small differences gives one rank. Identical texts always tie.

    Gumbel noise added to the log-worths gives a sample from the whole Plackett-Luce ranking (Yellott 1977).
    """
    # random() may return 0.0, whose logarithm is undefined
    noisy = [q - noise * math.log(-math.log(rng.random() or 1e-300)) if noise else q for q in quality]
    # identical texts share the noisy quality of their first occurrence
    noisy_by_text = {text: noisy[i] for i, text in reversed(list(enumerate(completions)))}
    noisy = [noisy_by_text[text] for text in completions]

    rank_by_quality, current, previous = {}, -1, math.inf
    for value in sorted(set(noisy), reverse=True):
        current += current < 0 or previous - value > margin
        rank_by_quality[value] = current
        previous = value
    return [rank_by_quality[value] for value in noisy]
