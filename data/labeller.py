"""A labeller who ranks completions by their quality, as noisily as people do."""

import math
import random
from collections.abc import Sequence


def rank(
    completions: Sequence[str], quality: Sequence[float], noise: float, margin: float, rng: random.Random
) -> list[int]:
    """A rank for each completion, 0 for the best, drawn from the Plackett-Luce model with worths exp(quality / noise).

    So the better of two is preferred with probability sigmoid(difference / noise). What is perceived as closer than
    `margin` to the next better one ties with it, and the same words always tie. With noise 0 the ranking is exact.
    """
    # Gumbel noise on the qualities draws a whole Plackett-Luce ranking at once
    perceived = [q - noise * math.log(-math.log(rng.random() or 1e-300)) if noise else q for q in quality]
    # what one reads again one judges alike
    first = {words: perceived[i] for i, words in reversed(list(enumerate(completions)))}
    perceived = [first[words] for words in completions]

    ranks, rank, previous = {}, -1, math.inf
    for level in sorted(set(perceived), reverse=True):
        rank += rank < 0 or previous - level > margin
        ranks[level] = rank
        previous = level
    return [ranks[level] for level in perceived]
