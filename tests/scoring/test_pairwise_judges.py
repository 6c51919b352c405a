"""A pairwise judge is asked in both orders, and what it must not return is refused."""

import random

import numpy as np
import pytest

from rlhf import InputError
from rlhf.scoring.pairwise_judges import judge_pairs

PROMPTS = ["p", "q", "r"]


def longer(prompts, a, b):
    return [0.5 if len(x) == len(y) else len(x) > len(y) for x, y in zip(a, b, strict=True)]


def test_a_judge_without_bias_has_one_verdict_in_both_orders():
    verdicts = judge_pairs(longer, PROMPTS, ["aaa", "a", "aa"], ["a", "aaa", "bb"])
    assert verdicts.preferences.tolist() == [1, 0, 0.5]
    assert not verdicts.disagreements.any()


def test_a_judge_that_prefers_what_it_reads_first_always_disagrees_with_itself():
    verdicts = judge_pairs(lambda prompts, a, b: [True] * len(a), PROMPTS, ["a"] * 3, ["b"] * 3)
    assert verdicts.preferences.tolist() == [0.5] * 3
    assert verdicts.disagreements.all()


def test_probabilities_of_both_orders_are_averaged():
    answers = {"a": 0.75, "b": 0.5}  # that the first one is better, by the first one
    verdicts = judge_pairs(lambda prompts, a, b: np.array([answers[x] for x in a]), ["p"], ["a"], ["b"])
    assert verdicts.preferences.tolist() == [(0.75 + (1 - 0.5)) / 2]
    assert verdicts.disagreements.tolist() == [True]  # a win in one order, a tie in the other


def test_an_async_judge_is_awaited():
    async def judge(prompts, a, b):
        return longer(prompts, a, b)

    assert judge_pairs(judge, PROMPTS, ["aa"] * 3, ["a"] * 3).preferences.tolist() == [1, 1, 1]


def test_a_judge_can_not_change_what_it_is_given_nor_the_random_numbers_of_the_run():
    def judge(prompts, a, b):
        prompts[0].append("x")
        a.clear()
        random.seed(1)
        print("thinking")
        return [1]

    prompts, answers, shown = [[{"role": "user", "content": "p"}]], ["a"], []
    state = random.getstate()
    judge_pairs(judge, prompts, answers, ["b"], shown.append)
    assert (len(prompts[0]), answers) == (1, ["a"])
    assert random.getstate() == state
    assert shown == ["thinking\n"] * 2


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1, 0], "returned 2 preferences for 3 pairs"),
        ([1, 0, float("nan")], "returned nan; it must return a probability"),
        ([1, 0, 1.5], r"returned 1.5; it must return a probability, from 0 to 1"),
        ([-0.1, 0, 1], "returned -0.1"),
        ([1, None, 0], "it must return a probability"),
        (["a", "b", "a"], "it must return a probability"),
        (None, "returned None"),
        (0.5, "returned 0.5"),
    ],
)
def test_what_is_not_a_probability_for_each_pair_is_refused(returned, message):
    def judge(prompts, a, b):
        return returned

    with pytest.raises(InputError, match=f"judge.*{message}"):
        judge_pairs(judge, PROMPTS, ["a"] * 3, ["b"] * 3)


@pytest.mark.parametrize("error", [ValueError("no key"), SystemExit(1)])
def test_an_error_of_a_judge_names_it_and_its_line(error):
    def judge(prompts, a, b):
        raise error

    with pytest.raises(InputError, match=r"judge (raised ValueError: no key|called exit) \(.*test_pairwise_judges.py:"):
        judge_pairs(judge, PROMPTS, ["a"] * 3, ["b"] * 3)
