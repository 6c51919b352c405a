"""The data stage: which prompts are held out for the test, and where prompts come from if none are named."""

import pytest

from rlhf import InputError
from stages.common.options import DataOptions
from stages.data import _prompts_of, split


@pytest.mark.parametrize("same_prompts", [True, False], ids=["all kinds share their prompts", "half of them"])
def test_a_held_out_prompt_is_in_the_training_rows_of_no_kind(same_prompts):
    def rows_of(kind, count, start=0):
        return [{"prompt": f"{i}", kind: "x"} for i in range(start, start + count) for _ in range(2)]

    rows = {
        "demonstrations": rows_of("completion", 40),
        "comparisons": rows_of("ranks", 40, 0 if same_prompts else 20),
        "prompts": rows_of("answer", 30, 0 if same_prompts else 10),
        "text": [{"text": f"document {i}"} for i in range(30)],
    }
    parts = split(rows, DataOptions(test_share=0.2))
    training, test = (
        {row["prompt"] for kind in rows if kind != "text" for row in parts[kind + suffix]} for suffix in ("", "_test")
    )
    assert not training & test
    for kind, kind_rows in rows.items():
        assert sorted(map(str, [*parts[kind], *parts[f"{kind}_test"]])) == sorted(map(str, kind_rows))
        share = len(parts[f"{kind}_test"]) / len(kind_rows)
        assert share == pytest.approx(0.2, abs=0.04) if same_prompts or kind == "text" else 0.2 <= share < 0.5


def test_a_chat_is_held_out_of_all_kinds_whether_its_replies_have_weights_or_not():
    chats = [[{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": "a"}] for i in range(20)]
    weighted = [[chat[0], {**chat[1], "weight": 1}, chat[0]] for chat in chats]
    rows = {
        "demonstrations": [{"prompt": chat, "completion": "b"} for chat in weighted],
        "prompts": [{"prompt": [*chat, chat[0]]} for chat in chats],
    }
    parts = split(rows, DataOptions(test_share=0.2))
    first = {name: {row["prompt"][0]["content"] for row in part} for name, part in parts.items()}
    assert first["demonstrations_test"] == first["prompts_test"]
    assert not any("weight" in message for row in _prompts_of(parts, "") for message in row["prompt"])


def test_of_five_prompts_one_is_held_out_and_of_four_texts_none():
    rows = {"prompts": [{"prompt": f"{i}"} for i in range(5)], "text": [{"text": f"{i}"} for i in range(4)]}
    parts = split(rows, DataOptions())
    assert {name: len(part) for name, part in parts.items()} == {
        "prompts": 4, "prompts_test": 1, "text": 4, "text_test": 0
    }  # fmt: skip


def test_a_split_that_holds_out_all_prompts_of_a_kind_is_refused():
    rows = {
        "demonstrations": [{"prompt": "0", "completion": "x"}] * 9,
        "prompts": [{"prompt": f"{i}"} for i in range(5)],
    }
    with pytest.raises(InputError, match="all prompts of the demonstrations are held out for the test"):
        for seed in range(40):  # one of them holds out the prompt of the demonstrations
            split(rows, DataOptions(seed=seed))


def test_no_more_rows_are_held_out_than_the_options_allow():
    rows = {"prompts": [{"prompt": f"{i}"} for i in range(100)]}
    assert len(split(rows, DataOptions(test_rows=5))["prompts_test"]) == 5
    assert len(split(rows, DataOptions(test_share=0.0))["prompts_test"]) == 0


def test_prompts_default_to_those_of_the_other_kinds_with_their_further_columns():
    rows = {
        "demonstrations": [{"prompt": "2 + 3", "completion": "5", "answers": ["5", "five"]}],
        "comparisons": [
            {"prompt": "2 + 3", "completions": ["5", "6"], "ranks": [0, 1], "quality": [1, 0]},
            {"prompt": "1 + 1", "completions": ["2", "3"], "ranks": [0, 1], "quality": [1, 0], "answer": 2},
        ],
    }
    assert _prompts_of(rows, "") == [{"prompt": "2 + 3", "answers": ["5", "five"]}, {"prompt": "1 + 1", "answer": 2}]
