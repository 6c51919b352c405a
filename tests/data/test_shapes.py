"""Shapes: rows of public data sets become rows of this project, or are counted or refused."""

import re
from pathlib import Path

import pytest

from data.shapes import SHAPES
from rlhf import InputError
from tests.data.adapted import ASSISTANT, USER, adapted, rows_and_tally
from tests.data.public_rows import ROWS, SYSTEM, ranking, said

# --- the table --------------------------------------------------------------------------------------------------------


def test_every_shape_of_the_table_has_a_row_in_the_tests():
    assert [shape.name for shape in SHAPES] == list(dict.fromkeys(shape.name for shape in SHAPES))
    assert {shape.name for shape in SHAPES} == ROWS.keys()


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_every_shape_becomes_what_its_card_says(name):
    kind, raw, expected = ROWS[name]
    assert rows_and_tally(raw, kind)[0] == [expected]


@pytest.mark.parametrize("name", ROWS)
def test_the_prompts_of_every_shape_are_those_of_its_rows(name):
    kind, raw, expected = ROWS[name]
    if kind == "text":
        return
    prompts = [row["prompt"] for row in rows_and_tally(raw, "prompts")[0]]
    plain = expected["prompt"]
    if isinstance(plain, list):
        plain = [{key: value for key, value in message.items() if key != "weight"} for message in plain]
    assert prompts and plain in prompts


def test_the_page_lists_every_example_of_the_table():
    page = (Path(__file__).parents[2] / "docs" / "data-sets.md").read_text()
    for shape in SHAPES:
        for example in re.findall(r"[\w.-]+/[\w.-]+", shape.examples):
            assert example in page, example


# --- rankings ---------------------------------------------------------------------------------------------------------


def test_a_ranking_of_a_tree_has_the_conversation_so_far_as_its_prompt():
    root = {"text": "Hi", "role": "prompter", "replies": [
        {"text": "Hello!", "role": "assistant", "rank": 0, "replies": [
            {"text": "Who?", "role": "prompter", "replies": [
                {"text": "a", "role": "assistant", "rank": 1, "replies": []},
                {"text": "b", "role": "assistant", "rank": 0, "replies": []},
            ]}]},
        {"text": "No.", "role": "assistant", "rank": 1, "replies": []},
    ]}  # fmt: skip
    rows, _ = adapted({"message_tree_id": "1", "prompt": root}, "comparisons")
    assert rows == [
        ranking([USER], ["Hello!", "No."], [0, 1]),
        ranking(said("Hi", "Hello!", "Who?"), ["a", "b"], [1, 0]),
    ]
    rows, _ = adapted({"message_tree_id": "1", "prompt": root}, "demonstrations")
    assert [row["completion"] for row in rows] == ["Hello!", "b"]


def test_messages_of_a_tree_whose_first_message_is_elsewhere_are_dropped_and_counted():
    rows = [
        {"message_id": str(i), "parent_id": "0", "text": "a", "role": "assistant", "rank": i, "message_tree_id": "0"}
        for i in (1, 2)
    ]
    assert adapted(rows, "comparisons") == ([], {"message of a tree whose rows do not follow each other": 2})


def test_a_rated_answer_without_another_one_of_its_prompt_beside_it_is_dropped_and_counted():
    rows = [{"prompt": prompt, "completion": " a", "label": True} for prompt in "abab"]
    reason = "completion without another one of the same prompt in the row before or after it"
    assert adapted(rows, "comparisons") == ([], {reason: 4})


def test_answers_labelled_as_bad_are_no_demonstrations():
    rows = [{"prompt": "a", "completion": " b", "label": label} for label in (True, False)]
    assert adapted(rows, "demonstrations") == ([{"prompt": "a", "completion": " b"}], {"completion labelled as bad": 1})


@pytest.mark.parametrize("winner", ["tie", "tie (bothbad)", "both_bad"])
def test_a_tie_of_two_models_is_dropped_and_counted(winner):
    raw = {"conversation_a": said("Hi", "a"), "conversation_b": said("Hi", "b"), "winner": winner}
    assert adapted(raw, "comparisons") == ([], {"all completions tied": 1})


def test_two_answers_that_are_both_bad_are_no_demonstrations():
    raw = {"conversation_a": said("Hi", "a"), "conversation_b": said("Hi", "b"), "winner": "both_bad"}
    assert adapted(raw, "demonstrations") == ([], {"completion labelled as bad": 1})


def test_the_best_answer_after_a_chat_of_several_turns_is_the_demonstration():
    """LLaMA-Factory's pairs: not the earlier reply of the chat."""
    raw = {"conversations": said("Hi", "Hello!", "Who?"), "chosen": ASSISTANT, "rejected": ASSISTANT}
    (row,), tally = rows_and_tally(raw, "demonstrations")
    assert row == {"prompt": said("Hi", "Hello!", "Who?"), "completion": [ASSISTANT]} and not tally.shortened


# --- chats ------------------------------------------------------------------------------------------------------------


def test_a_chat_without_a_reply_is_dropped_and_one_with_more_after_it_is_shortened():
    rows, tally = rows_and_tally([{"messages": [USER]}, {"messages": [USER, ASSISTANT, USER]}], "demonstrations")
    assert rows == [{"prompt": [USER], "completion": [ASSISTANT]}]
    assert tally.dropped == {"chat that does not end with a reply": 1}
    assert str(tally).endswith("(1 shortened: 1 chats, after their last reply)")
    assert adapted({"messages": [USER]}, "prompts")[0] == [{"prompt": [USER]}]
    assert adapted({"messages": [SYSTEM]}, "prompts")[0] == []


def test_replies_before_the_last_one_have_the_weight_that_the_row_gives_or_1():
    replies = [{**ASSISTANT, "weight": 0}, ASSISTANT, ASSISTANT, {**ASSISTANT, "weight": 0}]
    chat = [message for reply in replies for message in (USER, reply)]
    (row,), _ = adapted({"messages": chat}, "demonstrations")
    assert [message.get("weight") for message in row["prompt"]] == [None, 0, None, 1, None]
    assert row["completion"] == [ASSISTANT]
    (row,), _ = adapted({"messages": chat}, "prompts")
    assert not any("weight" in message for message in row["prompt"])


def test_a_call_of_tools_without_words_stays_in_the_chat():
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "w"}}]}
    raw = {"messages": [USER, call, {"role": "tool", "content": "sunny"}, ASSISTANT], "tools": '[{"name": "w"}]'}
    (row,), _ = adapted(raw, "demonstrations")
    assert row["prompt"][1] == {**call, "content": "", "weight": 1}
    assert row["tools"] == [{"type": "function", "function": {"name": "w"}}]


def test_a_prompt_ends_with_the_last_message_of_the_user():
    chat = [USER, ASSISTANT, ASSISTANT]
    assert adapted({"messages": chat}, "prompts")[0] == [{"prompt": [USER]}]
    assert adapted({"messages": [SYSTEM, ASSISTANT]}, "prompts") == ([], {"chat that does not end with a reply": 1})


def test_parts_of_text_are_joined_and_a_picture_drops_the_chat():
    text = {"type": "text", "text": "Hi"}
    rows = [
        {"messages": [{"role": "user", "content": parts}, ASSISTANT]} for parts in ([text], [text, {"type": "image"}])
    ]
    assert adapted(rows, "demonstrations") == (
        [{"prompt": [USER], "completion": [ASSISTANT]}],
        {"message with a picture": 1},
    )


# --- transcripts ------------------------------------------------------------------------------------------------------


def test_the_prompt_of_two_transcripts_is_their_common_conversation():
    start = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Who?\n\nAssistant:"
    (row,), _ = adapted({"chosen": f"{start} I am.", "rejected": f"{start} Nobody."}, "comparisons")
    assert row["prompt"] == [USER, ASSISTANT, {"role": "user", "content": "Who?"}]
    assert (row["completions"], row["ranks"]) == (["I am.", "Nobody."], [0, 1])


def test_transcripts_of_different_conversations_are_dropped_and_counted():
    rows, dropped = adapted(
        {"chosen": "\n\nHuman: A\n\nAssistant: B", "rejected": "\n\nHuman: C\n\nAssistant: D"}, "comparisons"
    )
    assert rows == [] and dropped == {"transcripts of different conversations": 1}


def test_texts_with_a_common_beginning_are_split_at_its_last_space_only_if_asked():
    raw = {"chosen": "Q: Who? A: Anna", "rejected": "Q: Who? A: Andy"}
    with pytest.raises(InputError, match=r"f:1: .*common_prefix: true"):
        adapted(raw, "comparisons")
    (row,), _ = adapted(raw, "comparisons", common_prefix=True)
    assert row["prompt"] == "Q: Who? A:"
    assert row["completions"] == [" Anna", " Andy"]
    with pytest.raises(InputError, match="question may belong to the prompt"):
        adapted({**raw, "question": "what is 1+2?"}, "comparisons", common_prefix=True)


def test_a_ranking_among_the_demonstrations_becomes_its_best_completion():
    ranking = {"prompt": "a", "completions": ["bad", "good"], "ranks": [1, 0], "models": ["m", "n"]}
    expected = [{"prompt": "a", "completion": "good"}]
    assert adapted(ranking, "demonstrations")[0] == expected
    assert adapted({"prompt": "a", "chosen": "good", "rejected": "bad"}, "demonstrations")[0] == expected
    (row,), _ = adapted(
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes.", "rejected": "\n\nHuman: Hi\n\nAssistant: No."}, "demonstrations"
    )
    assert row == {"prompt": [USER], "completion": "Yes."}


# --- columns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "completions": ["c", "b"], "ranks": [1, 0]},
        {"instruction": "a", "output": "b"},
        {"messages": [USER, ASSISTANT]},
    ],
)
def test_rows_of_every_shape_keep_their_further_columns(raw):
    (row,), _ = adapted({**raw, "answer": 7}, "demonstrations")
    assert row.keys() == {"prompt", "completion", "answer"} and row["answer"] == 7


@pytest.mark.parametrize("raw", [{"instruction": "a", "output": "b"}, {"messages": [USER, ASSISTANT]}])
def test_columns_of_another_answer_are_not_kept(raw):
    (row,), _ = adapted({**raw, "chosen": "x", "rejected": "y", "completions": ["x"], "ranks": [0]}, "demonstrations")
    assert row.keys() == {"prompt", "completion"} and "x" not in row["completion"]


def test_prompts_keep_the_answers_for_a_reward_function():
    assert adapted({"question": "1 + 1?", "answer": "#### 2"}, "prompts")[0] == [
        {"prompt": said("1 + 1?"), "answer": "#### 2"}
    ]


def test_rows_in_the_format_of_trl_are_unchanged():
    for kind, row in {
        "prompts": {"prompt": "a"},
        "demonstrations": {"prompt": "a", "completion": "b"},
        "text": {"text": "a"},
    }.items():
        assert adapted(row, kind) == ([row], {})


def test_null_columns_count_as_absent_and_a_null_text_drops_the_row():
    table = {"prompt": None, "completion": None, "messages": None, "instruction": None, "output": None}
    assert adapted({**table, "messages": [USER, ASSISTANT]}, "demonstrations")[0][0]["completion"] == [ASSISTANT]
    assert adapted({"prompt": "q", "completion": "a", "messages": None}, "demonstrations")[0][0]["completion"] == "a"
    assert adapted({"instruction": "q", "output": None}, "demonstrations") == ([], {"empty output": 1})
    assert adapted({"prompt": "q", "completion": float("nan")}, "demonstrations") == ([], {"empty completion": 1})
