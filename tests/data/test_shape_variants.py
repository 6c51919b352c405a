"""Other versions of the rows that the table of shapes lists, each with the row that it becomes."""

import pytest

from tests.data.adapted import ASSISTANT, USER, adapted
from tests.data.public_rows import CALL, SYSTEM, ranking, said


@pytest.mark.parametrize(
    ("kind", "raw", "expected"),
    [
        # PPO's prompts may be plain strings, which the user says
        ("prompts", "Hi", {"prompt": [USER]}),
        ("text", "Once.", {"text": "Once."}),
        # Dolly, OpenOrca, FLAN
        (
            "demonstrations",
            {"instruction": "Name one.", "context": "fox", "response": "A fox."},
            {"prompt": said("Name one.\n\nfox"), "completion": "A fox."},
        ),
        (
            "demonstrations",
            {"id": "1", "system_prompt": "Be kind.", "question": "Hi", "response": "a"},
            {"id": "1", "prompt": [SYSTEM, USER], "completion": "a"},
        ),
        ("demonstrations", {"inputs": "Hi", "targets": "a"}, {"prompt": [USER], "completion": "a"}),
        # a system message beside Alpaca and ShareGPT rows is the first message
        (
            "demonstrations",
            {"instruction": "Hi", "output": "a", "system": "Be kind.", "history": [["Yo", "Hello!"]]},
            {"prompt": [SYSTEM, *said("Yo", "Hello!"), USER], "completion": "a"},
        ),
        (
            "demonstrations",
            {
                "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}],
                "system": "Be kind.",
                "tools": "",
            },
            {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]},
        ),
        (
            "demonstrations",
            {"messages": [SYSTEM, USER, ASSISTANT], "system": "Be kind."},
            {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]},
        ),
        # LDJnr/Capybara; OpenAI's function_call; NVIDIA's chats beside an output; P3, whose inputs are token ids
        (
            "demonstrations",
            {"source": "x", "conversation": [{"input": "Hi", "output": "Hello!"}]},
            {"source": "x", "prompt": [USER], "completion": [ASSISTANT]},
        ),
        (
            "demonstrations",
            {"messages": [USER, {"role": "assistant", "content": None, "function_call": CALL}]},
            {
                "prompt": [USER],
                "completion": [
                    {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]}
                ],
            },
        ),
        (
            "demonstrations",
            {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": '[{"name": "add"}]'}]},
            {"prompt": [USER], "completion": [{"role": "assistant", "content": "", "tool_calls": [{"name": "add"}]}]},
        ),
        (
            "demonstrations",
            {"input": [USER], "output": "a", "system_prompt": "Be kind."},
            {"prompt": [SYSTEM, USER], "completion": "a"},
        ),
        (
            "demonstrations",
            {"inputs": [1], "inputs_pretokenized": "Hi", "targets": [2], "targets_pretokenized": "a"},
            {"inputs": [1], "targets": [2], "prompt": [USER], "completion": "a"},
        ),
        # THUDM/AgentInstruct says which replies are learned
        (
            "demonstrations",
            {
                "conversations": [
                    {"from": "human", "loss": None, "value": "Hi"},
                    {"from": "gpt", "loss": False, "value": "OK"},
                    {"from": "human", "loss": None, "value": "Who?"},
                    {"from": "gpt", "loss": True, "value": "I."},
                ]
            },
            {
                "prompt": [USER, {"role": "assistant", "content": "OK", "weight": 0}, *said("Who?")],
                "completion": said("", "I.")[1:],
            },
        ),
        # a text beside an instruction that renders the row
        (
            "demonstrations",
            {"instruction": "Add.", "input": "", "output": "3", "text": "Below ...\n\nAdd.\n\n### Response:\n3"},
            {"text": "Below ...\n\nAdd.\n\n### Response:\n3", "prompt": said("Add."), "completion": "3"},
        ),
        # MOSS, and a system message that is empty
        (
            "demonstrations",
            {"conversation": [{"human": "Hi", "assistant": "Hello!"}]},
            {"prompt": [USER], "completion": [ASSISTANT]},
        ),
        (
            "demonstrations",
            {
                "conversations": [
                    {"from": "system", "value": ""},
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Hello!"},
                ]
            },
            {"prompt": [USER], "completion": [ASSISTANT]},
        ),
        # LLaMA-Factory's pairs in Alpaca's columns, and pairs of columns with other names
        (
            "comparisons",
            {"instruction": "Add.", "input": "1, 2", "chosen": "3", "rejected": "4"},
            ranking(said("Add.\n\n1, 2"), ["3", "4"], [0, 1]),
        ),
        (
            "comparisons",
            {"instruction": "Hi", "chosen_response": "a", "rejected_response": "b"},
            ranking([USER], ["a", "b"], [0, 1]),
        ),
        # RewardBench 2: all chosen tie, before all rejected
        (
            "comparisons",
            {"prompt": "Hi", "chosen": ["a", "b"], "rejected": ["c", "d"]},
            ranking([USER], ["a", "b", "c", "d"], [0, 0, 1, 1]),
        ),
        # TRL: plain strings stay plain; the prompt beside replies as messages
        (
            "comparisons",
            {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
            ranking("The sky is", [" blue.", " green."], [0, 1]),
        ),
        (
            "comparisons",
            {"prompt": [USER], "chosen": [ASSISTANT], "rejected": said("", "No.")[1:]},
            ranking([USER], [[ASSISTANT], said("", "No.")[1:]], [0, 1]),
        ),
        # full HH: a transcript as the prompt
        (
            "comparisons",
            {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " a", "rejected": " b"},
            ranking([USER], ["a", "b"], [0, 1]),
        ),
        # PKU-Alignment/processed-hh-rlhf; thoughts beside the content of the last replies
        (
            "comparisons",
            {
                "context": [{"role": "human", "text": "Hi"}],
                "chosen": {"role": "assistant", "text": "a"},
                "rejected": {"role": "assistant", "text": "b"},
            },
            ranking([USER], [said("", "a")[1:], said("", "b")[1:]], [0, 1]),
        ),
        (
            "comparisons",
            {"chosen": [USER, {**ASSISTANT, "reasoning_content": "why"}], "rejected": said("Hi", "b")},
            ranking([USER], [[{**ASSISTANT, "reasoning_content": "why"}], "b"], [0, 1]),
        ),
        # MT-bench has both replies in the rows of its first turn; lmarena-ai/arena-human-preference-140k repeats them
        (
            "comparisons",
            {
                "winner": "model_a",
                "turn": 1,
                "conversation_a": said("Hi", "a", "Who?", "x"),
                "conversation_b": said("Hi", "b", "Who?", "y"),
            },
            ranking([USER], ["a", "b"], [0, 1]),
        ),
        (
            "comparisons",
            {
                "winner": "model_b",
                "conversation_a": said("Hi", "a"),
                "conversation_b": said("Hi", "b"),
                "full_conversation": [{"user": USER, "model_side_a": ASSISTANT}],
            },
            ranking([USER], ["a", "b"], [1, 0], full_conversation=[{"user": USER, "model_side_a": ASSISTANT}]),
        ),
        (
            "comparisons",
            {"instruction": "Hi", "output_1": "a", "output_2": "b", "preference": 1.2},
            ranking([USER], ["a", "b"], [0, 1]),
        ),
        # HelpSteer 2 puts the turns of a chat into one string
        (
            "comparisons",
            {
                "prompt": "Hi\n<extra_id_1>Assistant\nHello!\n<extra_id_1>User\nWho?",
                "response_1": "a",
                "response_2": "b",
                "preference_strength": 2,
            },
            ranking(said("Hi", "Hello!", "Who?"), ["a", "b"], [1, 0]),
        ),
        (
            "comparisons",
            {"info": {"article": "News.", "post": None}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0},
            ranking("Article:\n\nNews.\n\nTL;DR:\n\n", ["a", "b"], [0, 1]),
        ),
        # princeton-nlp's rankings keep all sampled responses
        (
            "comparisons",
            {
                "prompt": "Hi",
                "chosen": said("Hi", "a"),
                "rejected": said("Hi", "b"),
                "all_generated_responses": ["a", "b", "c"],
                "all_rm_scores": [0.3, 0.1, 0.2],
            },
            ranking([USER], ["a", "b", "c"], [0, 2, 1]),
        ),
    ],
)
def test_rows_of_the_same_kinds_become_what_they_mean(kind, raw, expected):
    assert adapted(raw, kind) == ([expected], {})
