"""Reward functions for tests."""

CALLS = 0


def fails_in_the_third_call(completions: list[str]) -> list[float]:
    """The length of the completions; an error in the third call of a process."""
    global CALLS
    CALLS += 1
    if CALLS == 3:
        raise ValueError("the third call")
    return [float(len(text)) for text in completions]


def one_infinity(completions: list[str]) -> list[float]:
    """0 for each completion but the fourth, which gets infinity."""
    return [float("inf") if i == 3 else 0.0 for i in range(len(completions))]


def exclamation_marks(completions: list[str], **columns: object) -> list[int]:
    """How many exclamation marks a completion has."""
    return [text.count("!") for text in completions]


def no_opinion(completions: list[str]) -> list[None]:
    """None for each completion."""
    return [None for _ in completions]
