"""Shapes: rows of public data sets become rows of this project, or are counted or refused."""

import re
from pathlib import Path

import pytest

from data.shapes import SHAPES
from rlhf import InputError
from tests.data.adapted import ASSISTANT, USER, adapted, rows_and_tally
from tests.data.public_rows import CALL, ROWS, SYSTEM, ranking, said

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


# --- other rows of the same shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "raw", "expected"),
    [
        # PPO's prompts may be plain strings, which the user says
        ("prompts", "Hi", {"prompt": [USER]}),
        ("text", "Once.", {"text": "Once."}),
        # Dolly, OpenOrca, FLAN
        ("demonstrations", {"instruction": "Name one.", "context": "fox", "response": "A fox."}, {"prompt": said("Name one.\n\nfox"), "completion": "A fox."}),
        ("demonstrations", {"id": "1", "system_prompt": "Be kind.", "question": "Hi", "response": "a"}, {"id": "1", "prompt": [SYSTEM, USER], "completion": "a"}),
        ("demonstrations", {"inputs": "Hi", "targets": "a"}, {"prompt": [USER], "completion": "a"}),
        # a system message beside Alpaca and ShareGPT rows is the first message
        ("demonstrations", {"instruction": "Hi", "output": "a", "system": "Be kind.", "history": [["Yo", "Hello!"]]}, {"prompt": [SYSTEM, *said("Yo", "Hello!"), USER], "completion": "a"}),
        ("demonstrations", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}], "system": "Be kind.", "tools": ""}, {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}),
        ("demonstrations", {"messages": [SYSTEM, USER, ASSISTANT], "system": "Be kind."}, {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}),
        # LDJnr/Capybara; OpenAI's function_call; NVIDIA's chats beside an output; P3, whose inputs are token ids
        ("demonstrations", {"source": "x", "conversation": [{"input": "Hi", "output": "Hello!"}]}, {"source": "x", "prompt": [USER], "completion": [ASSISTANT]}),
        ("demonstrations", {"messages": [USER, {"role": "assistant", "content": None, "function_call": CALL}]}, {"prompt": [USER], "completion": [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]}]}),
        ("demonstrations", {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": '[{"name": "add"}]'}]}, {"prompt": [USER], "completion": [{"role": "assistant", "content": "", "tool_calls": [{"name": "add"}]}]}),
        ("demonstrations", {"input": [USER], "output": "a", "system_prompt": "Be kind."}, {"prompt": [SYSTEM, USER], "completion": "a"}),
        ("demonstrations", {"inputs": [1], "inputs_pretokenized": "Hi", "targets": [2], "targets_pretokenized": "a"}, {"inputs": [1], "targets": [2], "prompt": [USER], "completion": "a"}),
        # THUDM/AgentInstruct says which replies are learned
        ("demonstrations", {"conversations": [{"from": "human", "loss": None, "value": "Hi"}, {"from": "gpt", "loss": False, "value": "OK"}, {"from": "human", "loss": None, "value": "Who?"}, {"from": "gpt", "loss": True, "value": "I."}]}, {"prompt": [USER, {"role": "assistant", "content": "OK", "weight": 0}, *said("Who?")], "completion": said("", "I.")[1:]}),
        # a text beside an instruction that renders the row
        ("demonstrations", {"instruction": "Add.", "input": "", "output": "3", "text": "Below ...\n\nAdd.\n\n### Response:\n3"}, {"text": "Below ...\n\nAdd.\n\n### Response:\n3", "prompt": said("Add."), "completion": "3"}),
        # MOSS, and a system message that is empty
        ("demonstrations", {"conversation": [{"human": "Hi", "assistant": "Hello!"}]}, {"prompt": [USER], "completion": [ASSISTANT]}),
        ("demonstrations", {"conversations": [{"from": "system", "value": ""}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}, {"prompt": [USER], "completion": [ASSISTANT]}),
        # LLaMA-Factory's pairs in Alpaca's columns, and pairs of columns with other names
        ("comparisons", {"instruction": "Add.", "input": "1, 2", "chosen": "3", "rejected": "4"}, ranking(said("Add.\n\n1, 2"), ["3", "4"], [0, 1])),
        ("comparisons", {"instruction": "Hi", "chosen_response": "a", "rejected_response": "b"}, ranking([USER], ["a", "b"], [0, 1])),
        # RewardBench 2: all chosen tie, before all rejected
        ("comparisons", {"prompt": "Hi", "chosen": ["a", "b"], "rejected": ["c", "d"]}, ranking([USER], ["a", "b", "c", "d"], [0, 0, 1, 1])),
        # TRL: plain strings stay plain; the prompt beside replies as messages
        ("comparisons", {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}, ranking("The sky is", [" blue.", " green."], [0, 1])),
        ("comparisons", {"prompt": [USER], "chosen": [ASSISTANT], "rejected": said("", "No.")[1:]}, ranking([USER], [[ASSISTANT], said("", "No.")[1:]], [0, 1])),
        # full HH: a transcript as the prompt
        ("comparisons", {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " a", "rejected": " b"}, ranking([USER], ["a", "b"], [0, 1])),
        # PKU-Alignment/processed-hh-rlhf; thoughts beside the content of the last replies
        ("comparisons", {"context": [{"role": "human", "text": "Hi"}], "chosen": {"role": "assistant", "text": "a"}, "rejected": {"role": "assistant", "text": "b"}}, ranking([USER], [said("", "a")[1:], said("", "b")[1:]], [0, 1])),
        ("comparisons", {"chosen": [USER, {**ASSISTANT, "reasoning_content": "why"}], "rejected": said("Hi", "b")}, ranking([USER], [[{**ASSISTANT, "reasoning_content": "why"}], "b"], [0, 1])),
        # MT-bench has both replies in the rows of its first turn; lmarena-ai/arena-human-preference-140k repeats them
        ("comparisons", {"winner": "model_a", "turn": 1, "conversation_a": said("Hi", "a", "Who?", "x"), "conversation_b": said("Hi", "b", "Who?", "y")}, ranking([USER], ["a", "b"], [0, 1])),
        ("comparisons", {"winner": "model_b", "conversation_a": said("Hi", "a"), "conversation_b": said("Hi", "b"), "full_conversation": [{"user": USER, "model_side_a": ASSISTANT}]}, ranking([USER], ["a", "b"], [1, 0], full_conversation=[{"user": USER, "model_side_a": ASSISTANT}])),
        ("comparisons", {"instruction": "Hi", "output_1": "a", "output_2": "b", "preference": 1.2}, ranking([USER], ["a", "b"], [0, 1])),
        # HelpSteer 2 puts the turns of a chat into one string
        ("comparisons", {"prompt": "Hi\n<extra_id_1>Assistant\nHello!\n<extra_id_1>User\nWho?", "response_1": "a", "response_2": "b", "preference_strength": 2}, ranking(said("Hi", "Hello!", "Who?"), ["a", "b"], [1, 0])),
        ("comparisons", {"info": {"article": "News.", "post": None}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0}, ranking("Article:\n\nNews.\n\nTL;DR:\n\n", ["a", "b"], [0, 1])),
        # princeton-nlp's rankings keep all sampled responses
        ("comparisons", {"prompt": "Hi", "chosen": said("Hi", "a"), "rejected": said("Hi", "b"), "all_generated_responses": ["a", "b", "c"], "all_rm_scores": [0.3, 0.1, 0.2]}, ranking([USER], ["a", "b", "c"], [0, 2, 1])),
    ],
)  # fmt: skip
def test_rows_of_the_same_kinds_become_what_they_mean(kind, raw, expected):
    assert adapted(raw, kind) == ([expected], {})


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
