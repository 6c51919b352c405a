"""Sums with steps: their text, their checks and their corruption, worked out by hand."""

import random

import pytest

from data import sums
from data.rewards import right_number
from data.sums import DIRECT, LENGTHS, WITH_STEPS, Answer, Step


def test_an_answer_has_a_step_for_each_addition_or_only_the_sum():
    assert sums.question((3, 4, 2)) == "Q: 3 + 4 + 2\nA:"
    assert sums.completion((3, 4, 2), WITH_STEPS) == " 3 + 4 = 7. 7 + 2 = 9. The answer is 9."
    assert sums.completion((3, 4, 2), DIRECT) == " The answer is 9."


@pytest.mark.parametrize(
    ("text", "steps", "result"),
    [
        (" 3 + 4 = 7. 7 + 2 = 9. The answer is 9.", (Step(3, 4, 7), Step(7, 2, 9)), 9),
        (" The answer is 9.", (), 9),
        (" The answer is 9. ", (), 9),
        (" 3 + 4 = 7. 7 + 2 =", (Step(3, 4, 7),), None),
        (" The answer is 9. 3 + 4 = 7.", (Step(3, 4, 7),), None),
        (" The answer is", (), None),
        ("", (), None),
    ],
)
def test_a_completion_is_read_as_its_steps_and_the_answer_at_its_end(text, steps, result):
    assert sums.read(text) == Answer(steps, result)


@pytest.mark.parametrize(
    ("steps", "right"),
    [
        ([Step(3, 4, 7), Step(7, 2, 9)], [True, True]),
        ([Step(3, 4, 8), Step(8, 2, 10)], [False, True]),  # goes on from the wrong result
        ([Step(3, 4, 8), Step(7, 2, 9)], [False, False]),
        ([Step(4, 3, 7), Step(7, 2, 9)], [False, True]),
        ([Step(3, 4, 7), Step(7, 4, 11)], [True, False]),  # adds a number that is not the next
        ([Step(3, 4, 7), Step(7, 2, 9), Step(9, 1, 10)], [True, True, False]),
        ([], []),
    ],
)
def test_each_step_is_checked_against_the_question_and_the_step_before(steps, right):
    assert sums.check_steps((3, 4, 2), steps) == right


def test_steps_are_all_right_only_if_none_is_missing_and_none_too_many():
    whole = [Step(3, 4, 7), Step(7, 2, 9)]
    assert sums.all_right((3, 4, 2), whole)
    assert not sums.all_right((3, 4, 2), whole[:1])
    assert not sums.all_right((3, 4, 2), [*whole, Step(9, 0, 9)])
    assert not sums.all_right((3, 4, 2), [])


def test_corruption_changes_one_result_and_the_sum_that_follows_by_as_much():
    rng = random.Random(1)
    places = set()
    for numbers in [(3, 4, 2), (1, 1), (sums.HIGHEST,) * max(LENGTHS)] * 20:
        corrupted = sums.corrupt(numbers, rng)
        steps = sums.read(corrupted.text).steps
        checked = sums.check_steps(numbers, steps)
        assert checked == [*[True] * (len(steps) - 1), False]
        change = steps[-1].result - sum(numbers[: len(steps) + 1])
        assert change in (-3, -2, -1, 1, 2, 3)
        assert corrupted.follows == sum(numbers) + change <= sums.LARGEST and steps[-1].result > 0
        places.add((len(numbers), len(steps)))
    assert {(3, 1), (3, 2), (2, 1)} < places


def test_no_held_out_sum_is_in_the_text_the_demonstrations_or_the_prompts():
    asked = {sums.question(numbers) for numbers in sums.held_out(50, seed=0)}
    seen = {f"{part}\nA:" for row in sums.documents(500, 0) for part in row["text"].split("\n") if part.startswith("Q")}
    seen |= {row["prompt"] for row in [*sums.demonstrations(500, 0, (DIRECT,)), *sums.prompts(500, 0)]}
    assert len(seen) > 1000 and not asked & seen


def test_held_out_sums_differ_and_have_every_length():
    asked = sums.held_out(20, seed=0)
    assert len(asked) == len(set(asked)) == 20 * len(LENGTHS)
    assert {len(numbers) for numbers in asked} == set(LENGTHS)


def test_the_answers_of_a_document_have_one_form():
    texts = [row["text"] for row in sums.documents(200, seed=0)]
    forms = [{bool(sums.read(line).steps) for line in text.split("\n") if line.startswith("A:")} for text in texts]
    assert {len(form) for form in forms} == {1} and {True} in forms and {False} in forms
    assert max(text.count("Q:") for text in texts) == sums.MOST_ASKED


def test_demonstrations_of_all_forms_ask_the_same_and_both_forms_take_turns():
    direct, both = (list(sums.demonstrations(40, 0, forms)) for forms in ((DIRECT,), (DIRECT, WITH_STEPS)))
    assert [row["prompt"] for row in direct] == [row["prompt"] for row in both]
    assert [bool(sums.read(row["completion"]).steps) for row in both] == [False, True] * 20


def test_the_reward_of_a_prompt_looks_only_at_the_final_answer():
    (row,) = sums.prompts(1, seed=0)
    texts = [f" 1 + 1 = 3. The answer is {row['answer']}.", f" The answer is {row['answer']}.", " The answer is 1."]
    assert right_number(texts, answer=[row["answer"]] * 3) == [1.0, 1.0, 0.0]
