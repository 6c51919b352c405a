"""Raters with a taste of their own, for tests and measurements; each gives completions scores, higher is better."""

from collections.abc import Sequence

KIND_WORDS = ("day!", "soon!", "helps!", "best!")
FEW_WORDS = 6  # at most; a fifth of the answers of the default run's SFT model


def polite(completions: Sequence[str]) -> list[float]:
    """Likes answers that end with a kind word: 1 for these, 0 for the others."""
    return [float(completion.strip().endswith(KIND_WORDS)) for completion in completions]


def brief(completions: Sequence[str]) -> list[float]:
    """Prefers the answer with fewer words."""
    return [-float(len(completion.split())) for completion in completions]


def ranks_of(scores: Sequence[float]) -> list[int]:
    """Ranks from 0, the highest score; equal scores tie."""
    order = sorted(set(scores), reverse=True)
    return [order.index(score) for score in scores]


def is_brief(completions: Sequence[str]) -> list[float]:
    """Whether an answer has few words: 1 or 0."""
    return [float(len(completion.split()) <= FEW_WORDS) for completion in completions]


# name: what the rater ranks by, and which answers it likes
RATERS = {"polite": (polite, polite), "brief": (brief, is_brief)}
