"""Adapters: rows of public data sets become rows of this project, or are counted or refused."""

import pytest

from data.adapters import adapt
from data.sources import read_source
from rlhf import InputError
from rlhf.rows import Tally, valid_rows

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}


def adapted(raw, kind):
    """The rows that a raw row becomes, and the reasons for which rows were dropped."""
    tally = Tally()
    return adapt(raw, kind, tally), dict(tally.dropped)


# --- prompts, text and instructions -----------------------------------------------------------------------------------


def test_strings_become_prompts_or_text():
    assert adapted("Why?", "prompts") == ([{"prompt": [{"role": "user", "content": "Why?"}]}], {})
    assert adapted("Once.", "text") == ([{"text": "Once."}], {})


def test_alpaca_and_self_instruct_rows_become_demonstrations():
    raw = {"instruction": "Add.", "input": "1 and 2", "output": "3", "history": [["Hi", "Hello!"]]}
    question = {"role": "user", "content": "Add.\n\n1 and 2"}
    assert adapted(raw, "demonstrations")[0] == [{"prompt": [USER, ASSISTANT, question], "completion": "3"}]
    raw = {"instruction": "Name one.", "instances": [{"input": "", "output": "A"}, {"input": "tree", "output": "Oak"}]}
    first, second = adapted(raw, "demonstrations")[0]
    assert first == {"prompt": [{"role": "user", "content": "Name one."}], "completion": "A"}
    assert second["prompt"][0]["content"] == "Name one.\n\ntree"


def test_dolly_rows_become_demonstrations():
    raw = {"instruction": "Name one.", "context": "tree, fox", "response": "A tree.", "category": "qa"}
    (row,), _ = adapted(raw, "demonstrations")
    prompt = [{"role": "user", "content": "Name one.\n\ntree, fox"}]
    assert row == {"prompt": prompt, "completion": "A tree.", "category": "qa"}


def test_a_list_of_outputs_becomes_a_ranking_with_the_best_first():
    (row,), _ = adapted({"instruction": "Hi", "input": "", "output": ["good", "bad"]}, "comparisons")
    assert row == {"prompt": [USER], "completions": ["good", "bad"], "ranks": [0, 1]}


def test_an_instruction_without_output_is_reported_as_lacking_a_completion():
    (row,), _ = adapted({"instruction": "a", "reply": "b"}, "demonstrations")
    with pytest.raises(InputError, match='no "completion"; the row has reply, prompt'):
        list(valid_rows([("f:1", row)], "demonstrations", Tally()))


# --- chats ------------------------------------------------------------------------------------------------------------


def test_a_chat_becomes_its_last_reply_and_the_messages_before_it():
    expected = [{"prompt": [USER], "completion": [ASSISTANT]}]
    assert adapted({"messages": [USER, ASSISTANT]}, "demonstrations")[0] == expected
    sharegpt = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}
    assert adapted(sharegpt, "demonstrations")[0] == expected
    rows, dropped = adapted({"messages": [USER]}, "demonstrations")
    assert rows == [] and sum(dropped.values()) == 1
    assert adapted({"messages": [USER]}, "prompts")[0] == [{"prompt": [USER]}]
    assert adapted({"messages": [{"role": "system", "content": "Be kind."}]}, "prompts")[0] == []


# --- pairs and rankings -----------------------------------------------------------------------------------------------


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


def test_texts_with_a_common_beginning_are_split_at_its_last_space():
    (row,), _ = adapted({"chosen": "Q: Who? A: Anna", "rejected": "Q: Who? A: Andy"}, "comparisons")
    assert row["prompt"] == "Q: Who? A:"
    assert row["completions"] == [" Anna", " Andy"]


def test_a_ranking_among_the_demonstrations_becomes_its_best_completion():
    ranking = {"prompt": "a", "completions": ["bad", "good"], "ranks": [1, 0]}
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


@pytest.mark.parametrize(
    "raw",
    [
        {"messages": "hello"},
        {"messages": ["hello"]},
        {"conversations": [1]},
        {"instruction": 1, "input": 2, "output": "a"},
        {"instruction": "a", "instances": [3]},
        {"instruction": "a", "output": "b", "history": [1]},
        {"chosen": [USER, "x"], "rejected": [USER, ASSISTANT]},
        {"prompt": "a", "completions": 3, "ranks": 4},
    ],
)
def test_a_row_with_values_of_the_wrong_type_is_refused_with_its_place(raw):
    with pytest.raises(InputError, match="f.jsonl:7"):
        rows = adapt(raw, "demonstrations", Tally(), "f.jsonl:7")
        list(valid_rows([("f.jsonl:7", row) for row in rows], "demonstrations", Tally()))


def test_rows_in_the_format_of_trl_are_unchanged():
    for kind, row in {
        "prompts": {"prompt": "a"},
        "demonstrations": {"prompt": "a", "completion": "b"},
        "comparisons": {"prompt": "a", "chosen": "b", "rejected": "c"},
        "text": {"text": "a"},
    }.items():
        assert adapted(row, kind) == ([row], {})


# --- real files -------------------------------------------------------------------------------------------------------

REAL = {
    "text": ["text/tinyshakespeare.txt", "text/sotu_1790_2021.txt"],
    "demonstrations": ["demonstrations/*.jsonl", "demonstrations/*.json"],
    "comparisons": [
        "comparisons/hh_harmless.jsonl.gz",
        "comparisons/oasst_en_rankings.jsonl",
        "comparisons/oasst_rm_zh.json",
    ],
    "prompts": ["prompts/oasst_250.jsonl"],
}


@pytest.mark.parametrize("kind", list(REAL))
def test_every_row_of_real_files_is_used_or_counted_with_its_reason(shared, kind):
    for source in REAL[kind]:
        tally = Tally()
        raw_rows = list(read_source(source, str(shared), "paragraph"))
        rows = []
        for where, raw in raw_rows:
            before = tally.dropped.total()
            adapted_rows = adapt(raw, kind, tally)
            assert adapted_rows or tally.dropped.total() == before + 1, where
            rows += [(where, row) for row in adapted_rows]
        assert len(list(valid_rows(rows, kind, tally))) == tally.used
        assert tally.used + tally.dropped.total() >= len(raw_rows)
        assert tally.used > 0.9 * len(raw_rows), tally
