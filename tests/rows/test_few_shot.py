"""Prompts with examples, and what counts as the same answer."""

import random

import pytest

from rlhf.rows.few_shot import ExamplePool, is_same_answer, with_examples


def text(number, **columns):
    return {"prompt": f"Q{number}:", "completion": f" A{number}", **columns}


def chat(number, *before, **columns):
    user = {"role": "user", "content": f"Q{number}"}
    return {"prompt": [*before, user], "completion": [{"role": "assistant", "content": f"A{number}"}], **columns}


SYSTEM = {"role": "system", "content": "be brief"}


def test_texts_are_joined_by_the_separator_and_end_with_the_prompt_that_is_asked():
    row = with_examples(text(3, task="t"), [text(1), text(2)], "\n\n")
    assert row == {"prompt": "Q1: A1\n\nQ2: A2\n\nQ3:", "completion": " A3", "task": "t"}
    assert with_examples(text(3), [], "\n\n") == text(3)


def test_in_a_chat_each_example_is_a_turn_after_the_system_message_of_the_row():
    other = {"role": "system", "content": "be long"}
    row = with_examples(chat(3, SYSTEM), [chat(1, other), {**chat(2), "completion": "A2"}], "\n\n")
    assert [(m["role"], m["content"]) for m in row["prompt"]] == [
        ("system", "be brief"),
        *(("user", "Q1"), ("assistant", "A1"), ("user", "Q2"), ("assistant", "A2"), ("user", "Q3")),
    ]


def drawn(pool, row, count, seed=0):
    return [example["completion"] for example in ExamplePool(pool).draw(row, count, random.Random(seed))]


@pytest.mark.parametrize("seed", range(20))
def test_no_example_has_the_prompt_that_is_asked_and_none_occurs_twice(seed):
    pool = [text(number) for number in range(5)]
    assert sorted(drawn(pool, text(2), 9, seed)) == [" A0", " A1", " A3", " A4"]


def test_only_texts_are_examples_of_texts_and_only_chats_of_chats():
    pool = [text(0), chat(1), chat(2), {**text(3), "rendered": True}]
    assert drawn(pool, text(9), 9) == [" A0"]
    assert len(drawn(pool, chat(9), 9)) == 2
    assert drawn([chat(1)], text(9), 9) == []


def test_examples_are_of_the_same_task_if_there_are_any():
    pool = [text(0, task="sum"), text(1, task="list"), text(2)]
    assert drawn(pool, text(9, task="sum"), 9) == [" A0"]
    assert len(drawn(pool, text(9, task="other"), 9)) == len(drawn(pool, text(9), 9)) == 3


def test_every_example_is_drawn_equally_often():
    pool = [text(number) for number in range(30)]
    counts = dict.fromkeys((row["completion"] for row in pool), 0)
    for seed in range(3000):
        counts[drawn(pool, text(0), 1, seed)[0]] += 1
    assert counts.pop(" A0") == 0
    assert max(abs(count - 3000 / 29) for count in counts.values()) < 5 * (3000 / 29) ** 0.5


@pytest.mark.parametrize(
    "answer, reference, same",
    [(" Paris.\n", "paris.", True), ("a  b", "a\nb", True), ("Paris", "Paris.", False), ("", " ", True)],
)
def test_answers_are_the_same_but_for_white_space_and_case(answer, reference, same):
    assert is_same_answer(answer, reference) == same
