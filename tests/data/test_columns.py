"""A recipe's own columns and adapters: what they make, and what is refused."""

import json

import pytest

from data.columns import Source
from rlhf import InputError
from rlhf.rows import Tally, valid_rows
from tests.data.public_rows import said


def mapped(raw, kind, **source):
    """The checked rows that a source makes of a raw row, and the reasons for which rows were dropped."""
    tally = Tally()
    source = Source.parse(json.dumps({"path": "f", **source}))
    rows = source.rows([("f:1", raw)], kind, tally, FUNCTIONS.__getitem__)
    return list(valid_rows(rows, kind, tally)), dict(tally.dropped)


# --- columns ----------------------------------------------------------------------------------------------------------


def test_columns_are_renamed_and_the_others_are_kept():
    raw = {"question": "Why?", "best_answer": " a", "worst_answer": " b", "context": "c", "id": 7}
    columns = {"prompt": "question", "chosen": "best_answer", "rejected": "worst_answer"}
    row = {"prompt": "Why?", "completions": [" a", " b"], "ranks": [0, 1], "context": "c", "id": 7}
    assert mapped(raw, "comparisons", columns=columns) == ([row], {})


def test_a_path_leads_into_objects_and_lists_and_a_minus_sign_turns_scores_into_ranks():
    completions = [{"response": t, "overall_score": s} for t, s in (("a", 4.0), ("b", 8.5), ("c", None), ("d", "6"))]
    raw = {"question": {"full_text": "Why?"}, "completions": [*completions, {"response": "e"}]}
    columns = {
        "instruction": "question.full_text",
        "completions": "completions[].response",
        "ranks": "-completions[].overall_score",
    }
    row = {"prompt": said("Why?"), "completions": ["a", "b", "d"], "ranks": [2, 0, 1]}
    assert mapped(raw, "comparisons", columns=columns) == ([row], {})
    assert mapped({"q": "Why?", "a": ["x", "y"]}, "demonstrations", columns={"prompt": "q", "completion": "a[1]"}) == (
        [{"prompt": "Why?", "completion": "y"}],
        {},
    )


def test_several_columns_are_joined_as_paragraphs():
    raw = {"context": "Anna is here.", "hint": "", "question": "Who?", "answer": "Anna"}
    columns = {"instruction": ["context", "hint", "question"], "completion": "answer"}
    row = {"prompt": said("Anna is here.\n\nWho?"), "completion": "Anna"}
    assert mapped(raw, "demonstrations", columns=columns) == ([row], {})


def test_a_system_message_and_messages_can_be_mapped():
    assert mapped({"q": "Why?", "s": "Be kind."}, "prompts", columns={"prompt": "q", "system": "s"})[0] == [
        {"prompt": [{"role": "system", "content": "Be kind."}, *said("Why?")]}
    ]
    assert mapped({"chat": said("Hi", "Hello!")}, "demonstrations", columns={"messages": "chat"})[0] == [
        {"prompt": said("Hi"), "completion": said("", "Hello!")[1:]}
    ]
    assert mapped({"content": "x = 1"}, "text", columns={"text": "content"})[0] == [{"text": "x = 1"}]


def test_a_group_of_columns_that_the_mapping_does_not_name_is_taken_as_it_is():
    raw = {"question": "Why?", "prompt": "unused", "chosen": "a", "rejected": "b", "system": "unused"}
    assert mapped(raw, "comparisons", columns={"prompt": "question"})[0] == [
        {"prompt": "Why?", "completions": ["a", "b"], "ranks": [0, 1]}
    ]


def test_a_null_value_drops_the_row():
    columns = {"prompt": "q", "completion": "a.text"}
    assert mapped({"q": "Why?", "a": None}, "demonstrations", columns=columns) == ([], {"empty completion": 1})


@pytest.mark.parametrize(
    ("raw", "columns", "message"),
    [
        ({"q": "Why?"}, {"prompt": "question"}, r"no column 'question'; the row has q \(text\)"),
        ({"q": {"a": 1}}, {"prompt": "q.b"}, "there is no 'b'; there is a"),
        ({"q": 1}, {"prompt": "q.b"}, "can't be taken from a number"),
        ({"q": 1, "p": "a"}, {"prompt": ["p", "q"]}, "not all of them are text"),
        ({"q": 1}, {"prompt": "q"}, r"prompt is a number \(q\), not text"),
        ({"q": True}, {"instruction": "q"}, "instruction is a boolean"),
        ({"q": [{"a": "x"}]}, {"prompt": "q.a"}, r"a can't be taken from a list; write \[\].a"),
        (["q"], {"prompt": "q"}, "the row is a list"),
    ],
)
def test_a_row_without_the_mapped_columns_is_refused_with_its_place(raw, columns, message):
    with pytest.raises(InputError, match=rf"^f:1: .*{message}"):
        mapped(raw, "prompts", columns=columns)


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("prompts", {"colums": {}}, "no 'colums', did you mean \"columns\""),
        ("prompts", {"path": ""}, "needs a path"),
        ("prompts", {"adapter": 3}, "adapter is a Python function"),
        ("prompts", {"common_prefix": "yes"}, "true or false"),
        ("prompts", {"columns": ["a"]}, "columns is a mapping"),
        ("prompts", {"columns": {"promt": "a"}}, 'did you mean "prompt"'),
        ("prompts", {"columns": {"prompt": 3}}, "must be the name of a column"),
        ("prompts", {"columns": {"prompt": "a[x]"}}, "must be the name of a column"),
        ("prompts", {"columns": {"prompt": "-a"}}, "only ranks"),
        ("prompts", {"columns": {"chosen": "a", "rejected": "b"}}, "can't make 'chosen' for prompts"),
        ("comparisons", {"columns": {"chosen": "a"}}, "one of chosen and rejected"),
        ("demonstrations", {"columns": {"prompt": "a", "messages": "b"}}, "the prompt twice"),
        ("prompts", {"adapter": "one", "columns": {"prompt": "a"}}, "either an adapter, or columns"),
    ],
)
def test_a_source_that_is_not_valid_is_refused(kind, source, message):
    with pytest.raises(InputError, match=message):
        mapped({"a": "x", "b": "y"}, kind, **source)


def test_a_path_alone_is_a_source():
    assert Source.parse("a/*.jsonl") == Source("a/*.jsonl")
    with pytest.raises(InputError, match="is not valid JSON"):
        Source.parse('{"path": ')


# --- adapters ---------------------------------------------------------------------------------------------------------


def generated(raw):
    yield {"prompt": raw["a"]}
    yield {"prompt": raw["a"] * 2}


def failing(raw):
    raise KeyError("nothing")


def repeating(raw):
    row = {}
    for text in ("x", "y"):
        row["prompt"] = text
        yield row


FUNCTIONS = {
    "repeating": repeating,
    "keys": lambda raw: [{"prompt": "a", "more": {(1, 2): 3}}],
    "one": lambda raw: [{"prompt": raw["a"], "more": raw["b"]}],
    "generated": generated,
    "none": lambda raw: [],
    "failing": failing,
    "exit": lambda raw: exit(0),
    "null": lambda raw: None,
    "single": lambda raw: {"prompt": "a"},
    "words": lambda raw: ["a"],
}


def test_an_adapter_returns_or_yields_rows_or_none():
    raw = {"a": "x", "b": 7}
    assert mapped(raw, "prompts", adapter="one") == ([{"prompt": "x", "more": 7}], {})
    assert mapped(raw, "prompts", adapter="generated") == ([{"prompt": "x"}, {"prompt": "xx"}], {})
    assert mapped(raw, "prompts", adapter="repeating")[0] == [{"prompt": "x"}, {"prompt": "y"}]
    assert mapped(raw, "prompts", adapter="none") == ([], {"row for which the adapter returned no rows": 1})


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("failing", "failing raised KeyError: 'nothing'"),
        ("exit", "exit called exit"),
        ("null", "returned null; it must return a list"),
        ("single", "returned an object; it must return a list"),
        ("words", "returned text; it must return a list"),
        ("keys", "returned a row that JSON can't hold"),
    ],
)
def test_a_fault_of_an_adapter_is_reported_with_the_place_of_the_row(adapter, message):
    with pytest.raises(InputError, match=f"^f:1: .*{message}"):
        mapped({"a": "x", "b": 7}, "prompts", adapter=adapter)


def test_the_rows_of_an_adapter_are_checked():
    with pytest.raises(InputError, match='f:1: no "completion"; the row has prompt, more'):
        mapped({"a": "x", "b": 7}, "demonstrations", adapter="one")


def test_a_source_on_the_hub_is_a_file_if_there_is_a_folder():
    both = Source.parse('{"hub": "owner/name", "path": "rows.jsonl"}')
    assert (both.name_in(None), both.name_in("mine")) == ("owner/name", "rows.jsonl")
    assert Source.parse('{"hub": "owner/name"}').name_in("mine") == "owner/name"
    assert Source.parse('{"path": "rows.jsonl"}').name_in(None) == "rows.jsonl"
    for text in ('{"hub": ""}', '{"hub": 3, "path": "a"}', "{}"):
        with pytest.raises(InputError, match="needs a path"):
            Source.parse(text)
