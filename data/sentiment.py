"""The sentiment of a story by two independent measures: a short list of words, and VADER's lexicon.

The recipe sentiment labels comparisons with the first and judges with the second, which training never sees.
"""

import re
from functools import cache
from typing import Any

from rlhf import InputError

HAPPY = frozenset("happy glad smile smiled fun love loved friend friends laugh laughed play played nice good".split())
SAD = frozenset("sad cry cried angry mad scared afraid hurt bad fell lost broke broken sorry lonely".split())
_WORD = re.compile(r"[a-z]+")
_LISTED = re.compile(rf"\b({'|'.join(sorted(HAPPY | SAD))})\b", re.IGNORECASE)


def word_count(completions: list[Any], **_: Any) -> list[float]:
    """The number of words in HAPPY minus that of words in SAD, for each completion."""
    words = (_WORD.findall(text.lower()) for text in _texts(completions))
    return [float(sum((word in HAPPY) - (word in SAD) for word in text)) for text in words]


def vader(completions: list[Any], **_: Any) -> list[float]:
    """VADER's compound score of each completion, from -1 to 1 (Hutto and Gilbert 2014).

    Raises InputError if the package vaderSentiment is not installed.
    """
    analyser = _analyser()
    return [analyser.polarity_scores(text)["compound"] for text in _texts(completions)]


def vader_of_other_words(completions: list[Any], **_: Any) -> list[float]:
    """VADER's score of each completion without the words in HAPPY and SAD, on which a policy can be trained."""
    return vader([_LISTED.sub("", text) for text in _texts(completions)])


def _texts(completions: list[Any]) -> list[str]:
    """The completions as text; one of a chat is its last message."""
    return [c if isinstance(c, str) else c[-1]["content"] for c in completions]


@cache
def _analyser() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise InputError("VADER is not installed: run `make setup`, or `pip install vaderSentiment`") from error
    return SentimentIntensityAnalyzer()
