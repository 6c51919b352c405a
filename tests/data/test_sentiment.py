"""Two independent measures of sentiment: the recipe sentiment trains on one and judges with the other."""

import pytest

from data.sentiment import vader, vader_of_other_words, word_count


@pytest.mark.parametrize(
    ("text", "count"),
    [("Happy Tim smiled. He had a friend!", 3), ("The sad dog was happy.", 0), ("She cried, and fell.", -2), ("", 0)],
)
def test_happy_words_count_plus_and_sad_words_minus_one(text, count):
    assert word_count([text]) == [count]


def test_a_completion_of_a_chat_is_its_last_message():
    chat = [{"role": "assistant", "content": "They laughed."}]
    assert word_count(completions=[chat], prompts=[[]]) == [1]


def test_vader_reads_negation_which_the_count_of_words_does_not():
    # the examples and scores of VADER's own README
    assert vader(["VADER is smart, handsome, and funny."]) == [0.8316]
    assert vader(["VADER is not smart, handsome, nor funny."]) == [-0.7424]
    assert word_count(["I am not happy."]) == [1] and vader(["I am not happy."])[0] < 0


def test_the_stricter_judge_does_not_read_the_words_of_the_labeller():
    assert vader_of_other_words(["Happy friends play."]) == [0]
    assert vader_of_other_words(["Happy friends are wonderful."]) == vader(["are wonderful."]) != [0]
