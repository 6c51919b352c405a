"""Answers are compared by their last number."""

import re
from decimal import Decimal

import pytest

from data import world
from data.rewards import last_number, right_number
from rlhf.scoring.function_calls import total


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("So there are 12 roses now.", "12"),
        ("9 + 4 = 13. So there are 13.", "13"),
        ("It costs $1,234.50.", "1234.5"),
        ("#### -7", "-7"),
        ("5-3", "3"),
        ("12.0", "12"),
        (".5", "0.5"),
        ("1, 2, 3", "3"),
        ("10,000,000", "10000000"),
        ("version v2 is none", None),
        ("none", None),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == (None if number is None else Decimal(number))


def test_a_row_of_gsm8k_is_right_if_the_number_after_its_mark_is_that_of_the_reply():
    """The answer of the first row of openai/gsm8k, shortened."""
    answer = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 altogether.\n#### 72"
    replies = ["The answer is 72.", "72 of 100", "I do not know."]
    chats = [[{"role": "assistant", "content": reply}] for reply in replies]
    assert right_number(replies, [answer] * 3) == right_number(chats, [answer] * 3) == [1.0, 0.0, 0.0]
    assert right_number(["72"], ["no number"]) == [None]


def test_the_answer_of_a_sum_of_the_world_is_right_by_the_criteria_of_the_world():
    rows = list(world.prompts(200, 0, task_names=["sum"]))
    assert {row["task"] for row in rows} == {"sum"} and len({row["answer"] for row in rows}) > 10
    for row in rows:
        things = re.search(r"[Hh]ow many (\w+)", row["prompt"])
        assert things
        for answer, parts in ((row["answer"], 1), (f"{row['answer']}0", 0)):
            text = f" The answer is {answer} {things[1]}."
            (criteria,) = world.criteria([row["prompt"]], [text], [True])
            assert criteria and (criteria["correct"] > 0) == bool(parts)
            assert right_number([text], [row["answer"]]) == [parts]


def test_the_parts_of_gold_add_up_to_it():
    rows = list(world.demonstrations(500, 1))
    columns = ([row["prompt"] for row in rows], [row["completion"] for row in rows], [i % 3 > 0 for i in range(500)])
    criteria = world.criteria(*columns)
    sums = [total({name: [number] for name, number in parts.items()})[0] for parts in criteria]
    assert sums == pytest.approx(world.gold(*columns), abs=1e-12)
    assert {"correct", "steps", "friendly", "grammatical", "ended", "floor"} <= set().union(*criteria)
    assert world.criteria(["Hello?"], [" Yes."], [True]) == [None]
