"""Rankings by people: the last decision counts, what was cut off is ignored, and what it can't be is refused."""

import json

import pytest

from data.rankings import agreement, pairs, read_decisions, usable
from rlhf import InputError


def decision(item="a", rater="Ada", ranks=(0, 1, 2), **columns):
    """A line of rankings.jsonl."""
    count = len(ranks or (0, 1, 2))
    completions = [f"{item} {i}" for i in range(count)]
    return {
        **{"id": item, "prompt": f"prompt {item}", "completions": completions, "ended": [True] * count},
        **{"models": ["sft"] * count, "shown": list(range(count)), "ranks": None if ranks is None else list(ranks)},
        **{"all_bad": False, "flag": False, "note": "", "rater": rater, "time": "2026-11-28", "seconds": 3.0},
        **columns,
    }


def written(path, *rows, end="\n"):
    path.write_text("\n".join(map(json.dumps, rows)) + end)
    return path


def test_the_last_decision_of_a_person_about_an_item_counts(tmp_path):
    first, other, changed = decision(), decision(rater="Bob"), decision(ranks=(2, 1, 0))
    assert read_decisions(written(tmp_path / "r.jsonl", first, other, changed)) == [other, changed]


def test_a_line_that_was_cut_off_is_ignored(tmp_path):
    path = written(tmp_path / "r.jsonl", decision())
    whole = path.read_bytes()
    for cut in range(len(whole) - 1):
        path.write_bytes(whole + whole[: cut + 1])
        assert read_decisions(path) == [decision()]


@pytest.mark.parametrize("column", [*decision()])
def test_a_line_without_one_of_the_columns_is_refused(tmp_path, column):
    incomplete = {name: value for name, value in decision().items() if name != column}
    with pytest.raises(InputError, match=rf'r\.jsonl:1: "{column}" is'):
        read_decisions(written(tmp_path / "r.jsonl", incomplete))


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": "3"},
        {"seconds": None},
        {"flag": 1},
        {"note": None},
        {"prompt": 3},
        {"models": []},
        {"ended": [True]},
    ],
)
def test_a_column_of_another_kind_or_length_is_refused(tmp_path, wrong):
    with pytest.raises(InputError, match=rf'r\.jsonl:1: "{next(iter(wrong))}" '):
        read_decisions(written(tmp_path / "r.jsonl", decision(**wrong)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"r\.jsonl:2: not JSON"),
        ("[]", r"r\.jsonl:2: a ranking is an object"),
        (json.dumps(decision() | {"id": 3}), r'r\.jsonl:2: "id" is missing or is not a text'),
        (json.dumps(decision() | {"ranks": [0, 1]}), r'r\.jsonl:2: "ranks" is not a whole number for each'),
        (json.dumps(decision() | {"ranks": [0, 1, True]}), r'r\.jsonl:2: "ranks" is not a whole number for each'),
    ],
)
def test_a_line_that_make_rank_does_not_write_is_refused_with_its_place(tmp_path, line, message):
    path = written(tmp_path / "r.jsonl", decision())
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(InputError, match=message):
        read_decisions(path)


def test_skipped_flagged_and_tied_items_are_not_learned_from():
    rows = [decision("a"), decision("b", ranks=None), decision("c", flag=True), decision("d", ranks=(0, 0, 0))]
    assert [row["id"] for row in usable(rows)] == ["a"]


def test_a_ranking_gives_a_pair_for_each_two_completions_that_do_not_tie():
    assert [(row["chosen"], row["rejected"]) for row in pairs([decision(ranks=(1, 0, 1))])] == [
        ("a 1", "a 0"),
        ("a 1", "a 2"),
    ]


def test_pairs_keep_the_tools_that_the_answers_may_call():
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert [row["tools"] for row in pairs([decision(ranks=(0, 1), tools=tools)])] == [tools]


def test_a_person_who_ranks_an_item_twice_does_not_agree_with_himself():
    assert agreement([decision(), decision()]) == ([], [])


def test_agreement_counts_the_pairs_that_two_people_order_alike():
    same, opposite = decision(), decision(rater="Bob", ranks=(2, 1, 0))
    assert agreement([same, decision(rater="Bob")]) == ([3], [3])
    assert agreement([same, opposite]) == ([0], [3])
    # Bob ties the first two, so that two pairs are left, and orders both like Ada
    assert agreement([same, decision(rater="Bob", ranks=(1, 1, 2))]) == ([2], [2])
    assert agreement([same, decision("b", rater="Bob"), decision("a", rater="Eve", ranks=None)]) == ([], [])
