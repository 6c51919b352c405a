"""Rows of which it is in doubt what they mean are refused, with what was seen and what to write."""

import pytest

from rlhf import InputError
from tests.data.adapted import ASSISTANT, USER, adapted
from tests.data.public_rows import SYSTEM, ranking, said


@pytest.mark.parametrize(
    ("kind", "raw", "message"),
    [
        (
            "comparisons",
            {"prompt": "Hi", "question": "Who?", "chosen": "a", "rejected": "b"},
            r"question may belong .*`columns: \{prompt: \[question, prompt\], chosen: chosen, rejected: rejected\}`",
        ),
        (
            "comparisons",
            {"prompt": "1+1?", "initial_reason_steps": "Step 1:", "chosen": "a", "rejected": "b"},
            "initial_reason_steps may belong",
        ),
        (
            "demonstrations",
            {"question": "Who?", "context": "Anna is here.", "answer": "Anna"},
            r"`columns: \{prompt: \[context, question\], completion: answer\}`",
        ),
        ("demonstrations", {"messages": [USER, ASSISTANT], "instruction": "Who?"}, "instruction may belong"),
        ("demonstrations", {"prompt": "a", "completion": "b", "functions": '[{"name": "f"}]'}, "functions may belong"),
        ("demonstrations", {"question": "Who?", "answer": ["Anna", "Andy"]}, "the answer is a list, not text"),
        (
            "demonstrations",
            {"reply": "a", "instruction": "b"},
            r"`columns: \{prompt: instruction, completion: reply\}`",
        ),
        ("demonstrations", {"messages": [{"role": "critic", "content": "a"}]}, "unknown role 'critic'"),
        ("demonstrations", {"messages": [SYSTEM, USER, ASSISTANT], "system": "Be rude."}, "column system differs"),
        (
            "comparisons",
            {"prompt": "Hi", "chosen": said("Who?", "a"), "rejected": said("Who?", "b")},
            "prompt may belong",
        ),
        (
            "comparisons",
            {"prompt": "Hi", "response": "a", "is_safe": True},
            "is_safe says whether an answer is harmful",
        ),
        ("comparisons", {"prompt": "Hi", "completion": "a"}, "no known columns of comparisons"),
        (
            "comparisons",
            {"context": [USER], "original_response": "a", "good_edited_response": "b", "bad_edited_response": "c"},
            r"`columns: \{prompt: context, chosen: good_edited_response, rejected: bad_edited_response\}`",
        ),
        (
            "demonstrations",
            {"context": "c", "question": "Who?", "answers": {"text": ["a"], "answer_start": [1]}},
            r"`columns: \{prompt: \[context, question\], completion: answers.text\[0\]\}`",
        ),
        # multiple choice: the choices belong to the question
        (
            "prompts",
            {"question": "2+2?", "choices": ["1", "4"], "answer": 1},
            r"choices may belong .* write a function, `adapter: my_module:rows`, if it does, or `columns: \{prompt: question\}`",
        ),
        ("demonstrations", {"question": "2+2?", "options": ["one", "four"], "answer": "B"}, "options may belong"),
        ("demonstrations", {"question": "Who?", "A": "Anna", "B": "Andy", "answer": "B"}, "A and B may belong"),
        ("prompts", {"question": "Who?", "option_a": "Anna", "opb": "Andy"}, "option_a and opb may belong"),
        (
            "prompts",
            {"question_stem": "Who?", "choices": {"text": ["Anna"], "label": ["A"]}},
            r"`columns: \{prompt: \.\.\.\}`",
        ),
        # retrieved documents, a text that the instruction applies to, and what a chat template gets
        (
            "demonstrations",
            {"question": "Who?", "documents": ["Anna is here."], "response": "Anna"},
            "documents may belong",
        ),
        (
            "demonstrations",
            {"instruction": "Translate.", "text": "Good morning", "output": "Guten Morgen"},
            "text may belong",
        ),
        (
            "demonstrations",
            {"messages": [USER, ASSISTANT], "chat_template_kwargs": {"custom_instructions": "Be kind."}},
            "chat_template_kwargs may belong",
        ),
        # labels of bad answers
        (
            "demonstrations",
            {"question": "Who?", "answer": "a", "label": 0},
            r"label may say that the answer is a bad one.*`columns: \{prompt: question, completion: answer\}` if not",
        ),
        (
            "demonstrations",
            {"prompt": "Hi", "response": "a", "prompt_label": "unsafe", "response_label": "unsafe"},
            "response_label may say",
        ),
        ("demonstrations", {"problem": "Hi", "solution": "a", "labels": [True, False]}, "labels may say"),
        (
            "demonstrations",
            {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": "no"}]},
            "text that is no JSON",
        ),
        (
            "demonstrations",
            {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": ["f"]}]},
            "not a list of objects",
        ),
        ("text", {"content": "x = 1"}, r"`columns: \{text: content\}`"),
        ("demonstrations", {"messages": "hello"}, "the chat is text, not a list of messages"),
        ("demonstrations", {"messages": ["hello"]}, "not a list of messages"),
        ("demonstrations", {"conversations": [1]}, "not a list of"),
        ("demonstrations", {"instruction": 1, "input": 2, "output": "a"}, "is a number, not text"),
        ("demonstrations", {"instruction": "a", "instances": [3]}, "not a list of objects"),
        ("demonstrations", {"instruction": "a", "output": "b", "history": [1]}, "history is a list, not"),
        ("demonstrations", {"chosen": [USER, "x"], "rejected": [USER, ASSISTANT]}, "chosen is a list, not"),
        ("demonstrations", {"prompt": "a", "completions": 3, "ranks": 4}, "completions and ranks are not lists"),
        ("demonstrations", {}, "no columns"),
        ("demonstrations", 7, "a row is an object with columns, not a number"),
    ],
)
def test_a_row_in_doubt_is_refused_with_its_place_and_with_what_to_write(kind, raw, message):
    with pytest.raises(InputError, match=rf"(?s)^f:1: .*{message}"):
        adapted(raw, kind)


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt": "Hi", "prompt_id": "7", "question_type": "open", "input_quality": "good"},
        {"prompt": "Q: Who?\nA:", "question": "Who?"},
        {"prompt": "Hi", "context": "", "history": [], "system": None},
        {"prompt": "Hi", "context": 7},
    ],
)
def test_columns_that_repeat_or_describe_the_prompt_do_not_refuse_a_row(raw):
    (row,), _ = adapted(raw, "prompts")
    assert row["prompt"] == raw["prompt"]


def test_labels_that_do_not_say_that_an_answer_is_bad_do_not_refuse_a_row():
    for label in ({"label": "sports"}, {"is_correct": True}, {"prompt_label": "unsafe"}, {"label": {"ability": ["x"]}}):
        raw = {"question": "Who?", "answer": "Anna", **label}
        assert adapted(raw, "demonstrations") == ([{**label, "prompt": said("Who?"), "completion": "Anna"}], {})


def test_a_prompt_that_repeats_the_conversation_or_renders_the_row_does_not_refuse_it():
    """A prompt beside HH's transcripts; the rendered prompt beside Alpaca's columns."""
    start = "\n\nHuman: Hi\n\nAssistant:"
    raw = {"prompt": start, "chosen": f"{start} a", "rejected": f"{start} b"}
    assert adapted(raw, "comparisons")[0] == [ranking([USER], ["a", "b"], [0, 1])]
    raw = {"instruction": "Add.", "input": "1, 2", "output": "3"}
    rendered = "Below is an instruction.\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Output:\n3"
    assert adapted({**raw, "prompt": rendered}, "demonstrations")[0] == [
        {"prompt": said("Add.\n\n1, 2"), "completion": "3"}
    ]


def test_a_row_with_a_picture_beside_its_text_is_dropped_and_counted():
    raw = {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}]}
    assert adapted(raw, "demonstrations") == ([], {"row with a picture": 1})
