"""Rows of supervised tasks: those of the world are true and held out by combination; tables are read as published."""

import math
import re
from collections import Counter

import pytest

from data.shapes.supervised import NO_GOLD, supervised_rows
from data.world.sentences import GRAMMAR, REQUESTS
from data.world.supervised import SUPERVISED, supervised
from data.world.words import MEMBERS, WORDS
from rlhf import InputError
from rlhf.rows import Tally
from rlhf.rows.supervised import COLUMNS
from rlhf.task import texts_of

COUNT = 400
NAMES = sorted(SUPERVISED)


def rows_of(name, test=False, count=COUNT):
    return list(supervised(name, count, 0, test))


# --- tasks of the world -----------------------------------------------------------------------------------------------


def test_the_topic_is_that_of_all_words_but_one():
    for row in rows_of("topic"):
        words = re.findall(r"[a-z]+", row["text"].removeprefix("There are").removeprefix("Well"))
        inside = [word in MEMBERS[row["label"]] for word in words if word != "and"]
        assert inside.count(False) == 1 and inside.count(True) in (2, 3)


def test_a_hypothesis_follows_if_it_names_the_feeling_that_the_ending_shows():
    for row in rows_of("entailment"):
        *_, ending = GRAMMAR.parse(re.split(r"(?<=\.) ", row["premise"])[-1])
        (opening,) = GRAMMAR.parse(row["hypothesis"])
        assert opening.kind == "opening" and ending.kind.startswith("ending")
        assert (ending.kind == f"ending {opening.slots['feeling']}") == (row["label"] == "yes")
        assert opening.slots["feeling"] not in row["premise"]


def test_requests_mean_the_same_if_they_are_of_the_same_kind_and_slots():
    for row in rows_of("similarity"):
        (one,), (two,) = REQUESTS.parse(row["text1"]), REQUESTS.parse(row["text2"])
        assert one.slots == two.slots and row["text1"] != row["text2"]
        assert (one.kind == two.kind) == (row["label"] == "same")


def test_the_right_ending_shows_the_feeling_of_the_hero_and_the_others_show_each_another():
    for row in rows_of("choice"):
        (opening, *_) = GRAMMAR.parse(re.split(r"(?<=\.) ", row["context"])[0])
        shown = [GRAMMAR.parse(text)[0].kind for text in row["choices"]]
        assert sorted(shown) == sorted(f"ending {feeling}" for feeling in WORDS["feeling"])
        assert shown[row["label"]] == f"ending {opening.slots['feeling']}"
        assert not any(feeling in text for text in row["choices"] for feeling in WORDS["feeling"])


def combinations(name, row):
    """What a row is about: the words of `topic`; hero and animal; person and attribute; reader and thing."""
    if name == "topic":
        return {word for words in MEMBERS.values() for word in words if word in re.findall(r"\w+", row["text"])}
    if name in ("entailment", "choice"):
        opening = GRAMMAR.parse(row["hypothesis"] if "hypothesis" in row else row["context"].partition(". ")[0] + ".")[
            0
        ]
        return {(opening.slots["name"], opening.slots["animal"])}
    return {
        (p.slots["name2"], p.slots["thing"]) if p.kind.startswith("note") else (p.slots["name"], p.kind.split()[-1])
        for p in (REQUESTS.parse(row[column])[0] for column in ("text1", "text2"))
    }


@pytest.mark.parametrize("name", NAMES)
def test_no_training_row_has_what_each_held_out_row_is_about(name):
    trained = {c for row in rows_of(name, count=1500) for c in combinations(name, row)}
    for row in rows_of(name, test=True):
        about = combinations(name, row)
        assert (
            about - trained if name == "similarity" else not about & trained
        )  # of two requests one at least is held out


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_distinct_and_the_same_for_the_same_seed(name):
    rows = rows_of(name)
    assert rows == rows_of(name) and len({repr(row) for row in rows}) == COUNT
    assert rows != list(supervised(name, COUNT, 1))


@pytest.mark.parametrize("name", ["entailment", "similarity"])
def test_a_bag_of_words_is_no_better_than_chance(name):
    def words(row):
        columns = COLUMNS["entailment" if name == "entailment" else "similarity"]
        return {f"{column} {word}" for column in columns for word in re.findall(r"\w+", row[column])}

    rows = rows_of(name, count=4000)
    labels = sorted({row["label"] for row in rows})
    counts = {label: Counter(w for row in rows if row["label"] == label for w in words(row)) for label in labels}

    def score(row, label):
        return sum(math.log(counts[label][w] + 1) for w in words(row))

    test = rows_of(name, test=True)
    right = sum(max(labels, key=lambda label: score(row, label)) == row["label"] for row in test)  # noqa: B023
    assert right / len(test) < 0.6


# --- tables -----------------------------------------------------------------------------------------------------------

PUBLISHED = {
    "own classification": ({"text": "T", "label": "good"}, "classification", ["T"], "good"),
    "SST-2": ({"sentence": "T", "label": 1, "idx": 0}, "classification", ["T"], "1"),
    "a CSV": ({"text": "T", "label": "0"}, "classification", ["T"], "0"),
    "own entailment": ({"premise": "P", "hypothesis": "H", "label": "yes"}, "entailment", ["P", "H"], "yes"),
    "SNLI, hub": ({"premise": "P", "hypothesis": "H", "label": 2}, "entailment", ["P", "H"], "2"),
    "SNLI, file": (
        {"annotator_labels": ["neutral"], "gold_label": "neutral", "pairID": "1", "sentence1": "P", "sentence2": "H"},
        "entailment", ["P", "H"], "neutral",
    ),
    "QNLI": ({"question": "Q", "sentence": "S", "label": 0, "idx": 1}, "entailment", ["Q", "S"], "0"),
    "own similarity": ({"text1": "A", "text2": "B", "label": True}, "similarity", ["A", "B"], "true"),
    "QQP": ({"question1": "A", "question2": "B", "label": 1, "idx": 3}, "similarity", ["A", "B"], "1"),
    "own choice": ({"context": "C", "choices": ["x", "y"], "label": 1}, "choice", ["C", "x", "y"], 1),
    "RACE": (
        {"example_id": "h1", "article": "A", "question": "Q", "options": ["w", "x", "y", "z"], "answer": "C"},
        "choice", ["A\nQ", "w", "x", "y", "z"], 2,
    ),
    "choices in a CSV": ({"context": "C", "choices": '["x", "y"]', "label": "0"}, "choice", ["C", "x", "y"], 0),
}  # fmt: skip


def read(*rows, form=None, tally=None):
    places = ((f"rows.jsonl:{number}", row) for number, row in enumerate(rows, start=1))
    return supervised_rows(places, form, tally or Tally())


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_columns_are_recognised(name):
    raw, form, texts, label = PUBLISHED[name]
    found, (row,), _ = read(raw)
    assert (found, texts_of(row, form), row["label"]) == (form, texts, label)


def test_columns_that_are_not_used_are_named():
    assert read({"text": "T", "label": 0, "title": "X"})[2] == {"title"}


@pytest.mark.parametrize("form", ["entailment", "similarity"])
def test_columns_of_two_forms_need_the_form(form):
    row = {"sentence1": "A", "sentence2": "B", "label": 0}
    with pytest.raises(InputError, match=r"rows.jsonl:1: sentence1 and sentence2 may be .*--form entailment or --form"):
        read(row)
    found, (read_row,), _ = read(row, form=form)
    assert found == form and texts_of(read_row, form) == ["A", "B"]


def test_rows_without_a_gold_label_are_dropped_and_counted():
    tally = Tally()
    pair = {"premise": "P", "hypothesis": "H"}
    rows = [{**pair, "label": label} for label in (0, -1, None, "-", 1)]
    _, kept, _ = read(*rows, tally=tally)
    assert [row["label"] for row in kept] == ["0", "1"] and tally.used == 2 and tally.dropped == {NO_GOLD: 3}


def test_rows_with_an_empty_text_or_equal_choices_are_dropped_and_counted():
    tally = Tally()
    read({"text": " ", "label": 0}, {"text": None, "label": 1}, {"text": "T", "label": 1}, tally=tally)
    assert tally.used == 1 and tally.dropped == {"with an empty text": 2}
    tally = Tally()
    read({"context": "C", "choices": ["x", "x"], "label": 0}, tally=tally)
    assert tally.used == 0 and tally.dropped == {"with equal choices": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "P", "completion": "C"}], r"rows.jsonl:1: the columns prompt, completion are of no form; rename"),
        ([{"text": "T", "premise": "P", "hypothesis": "H", "label": 0}], "rows.jsonl:1: the columns .* of several forms"),
        ([{"text": "T"}], "rows.jsonl:1: no column label; one column must be named label"),
        ([{"text": "T", "label": 0}, {"text": "T"}], "rows.jsonl:2: no column label, which the first row has"),
        ([{"text": 3, "label": 0}], "rows.jsonl:1: a number in text, which must hold text"),
        ([{"text": "T", "label": 3.8}], "rows.jsonl:1: label is 3.8, a number and no class"),
        ([{"text": "T", "label": -1}], "rows.jsonl:1: label is -1, which may be a class or"),
        ([{"text": "T", "label": [1]}], "rows.jsonl:1: label is a list; it must be a text or a whole number"),
        ([{"context": "C", "choices": "x", "label": 0}], "choices is text; it must be a list of two or more texts"),
        ([{"context": "C", "choices": ["x", "y"], "label": 2}], "label is 2; it must be an index from 0 to 1, or a letter"),
        ([{"context": "C", "choices": ["x", "y"], "label": "C"}], "label is C; it must be an index from 0 to 1"),
        (["T"], "rows.jsonl:1: a row is an object with columns, not text"),
        ([], "no rows"),
    ],
)  # fmt: skip
def test_a_row_whose_meaning_is_in_doubt_is_refused_with_its_place(rows, message):
    with pytest.raises(InputError, match=message):
        read(*rows)
