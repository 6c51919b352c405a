"""Thumbs of the chat page as lines of rankings: what is compared, when it is written, and who reads it."""

import json
import os

import pytest

from data.rankings import read_decisions, usable
from rlhf import InputError
from stages.common.options import ComparisonsOptions
from stages.common.people import read_people
from stages.common.run import Run
from stages.web.thumbs import DISLIKED, LIKED, UNMARKED, Answer, Comparison, Thumbs

PROMPT = "User: Hello\nBot:"


def answer(text, **columns):
    return Answer("sft", 1, 1.0, PROMPT, text, **{"finished": True, "stopped": False, **columns})


@pytest.fixture
def thumbs(tmp_path):
    return Thumbs(tmp_path / "rankings" / "chat")


def compared(thumbs, *answers):
    comparison = Comparison(PROMPT)
    for one in answers:
        thumbs.add(comparison, one)
    return comparison


def lines(thumbs):
    return [json.loads(line) for line in thumbs.path.read_text().splitlines()] if thumbs.path.exists() else []


def test_liked_ranks_above_unmarked_and_that_above_disliked(thumbs):
    first, second, third = answers = [answer(" a"), answer(" b", finished=False), answer(" c")]
    comparison = compared(thumbs, *answers)
    thumbs.mark(comparison, third, LIKED, "Ada")
    thumbs.mark(comparison, first, DISLIKED, "Ada")
    row = lines(thumbs)[-1]
    assert row["completions"] == [" a", " b", " c"] and row["ranks"] == [2, 1, 0]
    assert row["ended"] == [True, False, True] and row["prompt"] == PROMPT and row["rater"] == "Ada"
    assert None not in row.values()
    thumbs.mark(comparison, second, DISLIKED, "Ada")
    assert lines(thumbs)[-1]["ranks"] == [1, 1, 0]


def test_a_mark_of_a_single_answer_is_written_when_there_is_another_one(thumbs):
    comparison = compared(thumbs, answer(" a"))
    thumbs.mark(comparison, comparison.answers[0], LIKED, "chat")
    assert not thumbs.path.exists()
    thumbs.add(comparison, answer(" b"))
    assert [row["ranks"] for row in lines(thumbs)] == [[0, 1]]


def test_a_mark_that_is_taken_back_counts_no_more(thumbs):
    comparison = compared(thumbs, answer(" a"), answer(" b"))
    thumbs.mark(comparison, comparison.answers[0], LIKED, "chat")
    thumbs.mark(comparison, comparison.answers[0], LIKED, "chat")  # sent twice
    assert len(lines(thumbs)) == 1 and len(list(usable(read_decisions(thumbs.path)))) == 1
    thumbs.mark(comparison, comparison.answers[0], UNMARKED, "chat")
    assert len(lines(thumbs)) == 2 and list(usable(read_decisions(thumbs.path))) == []


def test_a_name_that_is_typed_later_makes_no_second_opinion(thumbs):
    comparison = compared(thumbs, answer(" a"), answer(" b"))
    thumbs.mark(comparison, comparison.answers[0], LIKED, "chat")
    thumbs.mark(comparison, comparison.answers[0], DISLIKED, "Ada")
    assert [row["ranks"] for row in read_decisions(thumbs.path)] == [[1, 0]]


def test_equal_answers_have_one_mark_and_no_comparison(thumbs):
    comparison = compared(thumbs, answer(" a"), answer(" a"))
    thumbs.mark(comparison, comparison.answers[0], LIKED, "chat")
    assert comparison.mark_of(comparison.answers[1]) == LIKED and lines(thumbs) == []
    thumbs.add(comparison, answer(" b"))
    assert lines(thumbs)[-1]["ranks"] == [0, 0, 1]


def test_an_empty_answer_and_one_that_was_stopped_and_not_marked_are_not_compared(thumbs):
    stopped = answer(" c", finished=False, stopped=True)
    comparison = compared(thumbs, answer(" a"), answer(" \n"), stopped)
    thumbs.mark(comparison, comparison.answers[0], LIKED, "chat")
    assert lines(thumbs) == []
    thumbs.mark(comparison, stopped, DISLIKED, "chat")
    assert lines(thumbs)[-1]["completions"] == [" a", " c"] and lines(thumbs)[-1]["ended"] == [True, False]


def test_all_disliked_answers_are_all_bad_and_tie(thumbs):
    comparison = compared(thumbs, answer(" a"), answer(" b"))
    for one in comparison.answers:
        thumbs.mark(comparison, one, DISLIKED, "chat")
    assert lines(thumbs)[-1]["all_bad"] and lines(thumbs)[-1]["ranks"] == [0, 0]


def test_a_full_disk_leaves_the_mark_as_it_was(thumbs, monkeypatch):
    comparison = compared(thumbs, answer(" a"), answer(" b"))
    thumbs.mark(comparison, comparison.answers[0], LIKED, "chat")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", full)
        thumbs.mark(comparison, comparison.answers[0], DISLIKED, "chat")
    assert comparison.mark_of(comparison.answers[0]) == LIKED
    assert [row["ranks"] for row in lines(thumbs)] == [[0, 1]]
    thumbs.mark(comparison, comparison.answers[0], DISLIKED, "chat")
    assert [row["ranks"] for row in lines(thumbs)] == [[0, 1], [1, 0]]


def test_only_one_server_writes_to_a_folder(thumbs):
    with pytest.raises(InputError, match="another process is working in"):
        Thumbs(thumbs.path.parent)


@pytest.mark.parametrize("messages", [False, True])
def test_labeller_people_reads_the_marks_beside_the_rankings_of_make_rank(tmp_path, thumbs, messages):
    for number in range(20):
        prompt = f"User: question {number}\nBot:"
        comparison = Comparison([{"role": "user", "content": prompt}] if messages else prompt)
        for text in (" no.", " yes."):
            thumbs.add(comparison, answer(text))
        thumbs.mark(comparison, comparison.answers[number % 2], DISLIKED, "Ada")
    people = read_people(ComparisonsOptions(run=str(tmp_path), labeller="people"), Run(tmp_path).path)
    assert str(people) == "20 rankings by 1 person (Ada 20): 20 used" and len(people.train) + len(people.test) == 20
    (own := tmp_path / "rankings" / "rankings.jsonl").write_text(thumbs.path.read_text().replace('"Ada"', '"Bob"'))
    people = read_people(ComparisonsOptions(run=str(tmp_path), labeller="people"), Run(tmp_path).path)
    assert "40 rankings by 2 people" in str(people) and own.exists()
