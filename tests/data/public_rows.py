"""One row of every shape, with the columns that the card of the data set documents, and what is right for it by hand.

name of the shape -> (kind, raw row or consecutive raw rows, expected row)
"""


def said(*turns: str) -> list[dict]:
    """A chat: the user and the assistant by turns."""
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


SYSTEM = {"role": "system", "content": "Be kind."}
POST = {"id": "t3_1", "subreddit": "tifu", "title": "A fall", "post": "I fell.", "site": None, "article": None}
TLDR = "SUBREDDIT: r/tifu\n\nTITLE: A fall\n\nPOST: I fell.\n\nTL;DR:"
CALL = {"name": "add", "arguments": {"a": 1}}
TOOL = {"name": "add", "description": "Adds.", "parameters": {}}


def ranking(prompt, completions, ranks, **further):
    return {**further, "prompt": prompt, "completions": completions, "ranks": ranks}


ROWS = {
    "a ranking": (
        "comparisons",
        {"prompt": "Hi", "completions": [" a", " b", " c"], "ranks": [2, 0, 1], "ended": [True, True, False]},
        ranking("Hi", [" a", " b", " c"], [2, 0, 1], ended=[True, True, False]),
    ),
    "Nectar": (
        "comparisons",
        {
            "prompt": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Who?\n\nAssistant: ",
            "answers": [{"answer": "b", "model": "m", "rank": 2.0}, {"answer": "a", "model": "n", "rank": 1.0}],
            "turns": 2,
            "num_responses": 2,
            "source": ["sharegpt"],
            "good_natured": True,
        },
        ranking(
            said("Hi", "Hello!", "Who?"), ["b", "a"], [1, 0],
            turns=2, num_responses=2, source=["sharegpt"], good_natured=True,
        ),
    ),
    "UltraFeedback": (
        "comparisons",
        {
            "source": "flan",
            "instruction": "Hi",
            "models": ["m", "n", "o"],
            "completions": [
                {"model": "m", "response": "a", "overall_score": 4.0, "fine-grained_score": 5.0},
                {"model": "n", "response": "b", "overall_score": None, "fine-grained_score": 4.0},
                {"model": "o", "response": "c", "overall_score": 8.5, "fine-grained_score": 3.0},
            ],
            "correct_answers": ["None"],
        },
        ranking(said("Hi"), ["a", "c"], [1, 0], source="flan", models=["m", "n", "o"], correct_answers=["None"]),
    ),
    "Stack Exchange preferences": (
        "comparisons",
        {
            "qid": 5,
            "question": "How?",
            "answers": [
                {"answer_id": 1, "author": "x", "pm_score": 0, "selected": False, "text": "a"},
                {"answer_id": 2, "author": "y", "pm_score": 5, "selected": True, "text": "b"},
                {"answer_id": 3, "author": "z", "pm_score": 0, "selected": False, "text": "c"},
            ],
        },
        ranking(said("How?"), ["a", "b", "c"], [1, 0, 1], qid=5),
    ),
    "sampled answers with scores": (
        "comparisons",
        {
            "system": "Be kind.",
            "input": "Hi",
            "chosen": "a",
            "rejected": "b",
            "generations": ["a", "b"],
            "rating": [7.0, 9.0],
            "labelling_prompt": [{"role": "user", "content": "Rate them."}],
            "status": "swapped",
        },
        ranking(
            [SYSTEM, *said("Hi")], ["a", "b"], [1, 0],
            labelling_prompt=[{"role": "user", "content": "Rate them."}], status="swapped",
        ),
    ),
    "sampled answers with ranks": (
        "comparisons",
        {
            "source": "x",
            "prompt": "Hi",
            "candidates_completions": ["a", "b", "c"],
            "ranks": [3, 1, 2],
            "chosen": said("Hi", "b"),
            "rejected": said("Hi", "a"),
        },
        ranking(said("Hi"), ["a", "b", "c"], [2, 0, 1], source="x"),
    ),
    "Alpaca with several outputs": (
        "comparisons",
        {"instruction": "Add.", "input": "1, 2", "output": ["3", "12", "?"]},
        ranking(said("Add.\n\n1, 2"), ["3", "12", "?"], [0, 1, 2]),
    ),
    "trees": (
        "comparisons",
        {
            "message_tree_id": "t",
            "tree_state": "ready_for_export",
            "prompt": {
                "text": "Hi", "role": "prompter",
                "replies": [
                    {"text": "b", "role": "assistant", "rank": 1, "replies": []},
                    {"text": "a", "role": "assistant", "rank": 0, "replies": [
                        {"text": "Why?", "role": "prompter", "rank": None, "replies": [
                            {"text": "no", "role": "assistant", "rank": None, "replies": []},
                        ]}]},
                ],
            },
        },
        ranking(said("Hi"), ["b", "a"], [1, 0], tree_state="ready_for_export"),
    ),
    "messages of trees": (
        "comparisons",
        [
            {"message_id": "1", "parent_id": None, "text": "Hi", "role": "prompter", "rank": None, "message_tree_id": "1", "lang": "en"},
            {"message_id": "2", "parent_id": "1", "text": "b", "role": "assistant", "rank": 1.0, "message_tree_id": "1", "lang": "en"},
            {"message_id": "3", "parent_id": "1", "text": "a", "role": "assistant", "rank": 0.0, "message_tree_id": "1", "lang": "en"},
        ],
        ranking(said("Hi"), ["b", "a"], [1, 0], lang="en"),
    ),
    "WebGPT": (
        "comparisons",
        {
            "question": {"dataset": "eli5", "id": "1", "full_text": "Why?"},
            "quotes_0": {"title": [], "extract": []}, "answer_0": "a", "tokens_0": {"prefix": [1]}, "score_0": -0.5,
            "quotes_1": {"title": [], "extract": []}, "answer_1": "b", "tokens_1": {"prefix": [1]}, "score_1": 0.5,
        },
        ranking(
            said("Why?"), ["a", "b"], [1, 0], tokens_0={"prefix": [1]}, tokens_1={"prefix": [1]},
            quotes_0={"title": [], "extract": []}, quotes_1={"title": [], "extract": []},
        ),
    ),
    "AlpacaFarm": (
        "comparisons",
        {"instruction": "Add.", "input": "1, 2", "output_1": "12", "output_2": "3", "preference": 2},
        ranking(said("Add.\n\n1, 2"), ["12", "3"], [1, 0]),
    ),
    "SafeRLHF": (
        "comparisons",
        {"prompt": "Hi", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0},
        ranking(said("Hi"), ["a", "b"], [1, 0], safer_response_id=0),
    ),
    "HelpSteer preference": (
        "comparisons",
        {"domain": "general", "language": "english", "context": said("Hi"), "response1": "a", "response2": "b", "overall_preference": -1},
        ranking(said("Hi"), ["a", "b"], [0, 1], domain="general", language="english"),
    ),
    "summarize from feedback": (
        "comparisons",
        {
            "info": POST,
            "summaries": [{"text": " a", "policy": "p", "note": ""}, {"text": " b", "policy": "q", "note": ""}],
            "choice": 1,
            "worker": "w",
        },
        ranking(TLDR, [" a", " b"], [1, 0], worker="w"),
    ),
    "SHP": (
        "comparisons",
        {"post_id": "p", "domain": "askbaking_train", "history": "How?", "human_ref_A": "a", "human_ref_B": "b", "labels": 1, "score_ratio": 2.0},
        ranking(said("How?"), ["a", "b"], [0, 1], post_id="p", domain="askbaking_train", score_ratio=2.0),
    ),
    "Chatbot Arena": (
        "comparisons",
        {"question_id": "q", "model_a": "m", "model_b": "n", "winner": "model_b", "conversation_a": said("Hi", "a"), "conversation_b": said("Hi", "b"), "turn": 1},
        ranking(said("Hi"), ["a", "b"], [1, 0], question_id="q", model_a="m", model_b="n"),
    ),
    "Chatbot Arena, texts": (
        "comparisons",
        {
            "id": 1, "prompt": '["Hi"]', "response_a": '["a"]', "response_b": '["b"]',
            "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0,
        },
        ranking(said("Hi"), ["a", "b"], [0, 1], id=1),
    ),
    "Stack Exchange pairs": (
        "comparisons",
        {"qid": 1, "question": "How?", "response_j": "a", "response_k": "b"},
        ranking(said("How?"), ["a", "b"], [0, 1], qid=1),
    ),
    "two conversations": (
        "comparisons",
        {
            "prompt": "Hi", "prompt_id": "x", "messages": said("Hi", "a"), "score_chosen": 8.0, "score_rejected": 6.0,
            "chosen": said("Hi", "a"), "rejected": said("Hi", "b"),
        },
        ranking(said("Hi"), ["a", "b"], [0, 1], prompt_id="x", messages=said("Hi", "a"), score_chosen=8.0, score_rejected=6.0),
    ),
    "a chat and a pair": (
        "comparisons",
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        ranking(said("Hi"), [[{"role": "assistant", "content": "a"}], [{"role": "assistant", "content": "b"}]], [0, 1]),
    ),
    "a pair": (
        "comparisons",
        {"id": "1", "source": "x", "system": "Be kind.", "prompt": "Hi", "chosen": "a", "rejected": "b"},
        ranking([SYSTEM, *said("Hi")], ["a", "b"], [0, 1], id="1", source="x"),
    ),
    "a question and a pair": (
        "comparisons",
        {"system": "Be kind.", "question": "Hi", "chosen": "a", "rejected": "b"},
        ranking([SYSTEM, *said("Hi")], ["a", "b"], [0, 1]),
    ),
    "an input and a pair": (
        "comparisons",
        {"system": "Be kind.", "input": "Hi", "chosen": "a", "rejected": "b", "in_gsm8k_train": False},
        ranking([SYSTEM, *said("Hi")], ["a", "b"], [0, 1], in_gsm8k_train=False),
    ),
    "KTO": (
        "comparisons",
        [{"prompt": "Hi", "completion": " a", "label": False}, {"prompt": "Hi", "completion": " b", "label": True}],
        ranking("Hi", [" a", " b"], [1, 0]),
    ),
    "KTO chats": (
        "comparisons",
        [{"messages": said("Hi", "a"), "label": True}, {"messages": said("Hi", "b"), "label": False}],
        ranking(said("Hi"), [said("", "a")[1:], said("", "b")[1:]], [0, 1]),
    ),
    "HelpSteer": (
        "comparisons",
        [
            {"prompt": "Hi", "response": "a", "helpfulness": 2, "correctness": 3},
            {"prompt": "Hi", "response": "b", "helpfulness": 4, "correctness": 4},
            {"prompt": "Hi", "response": "c", "helpfulness": 2, "correctness": 1},
        ],
        ranking(said("Hi"), ["a", "b", "c"], [1, 0, 1]),
    ),
    "graded solutions": (
        "comparisons",
        [
            {"question": "1 + 1?", "expected_answer": "2", "predicted_answer": "3", "is_correct": False,
             "error_message": "", "generation_type": "without_code", "dataset": "gsm8k", "generated_solution": "3"},
            {"question": "1 + 1?", "expected_answer": "2", "predicted_answer": "2", "is_correct": True,
             "error_message": "", "generation_type": "without_code", "dataset": "gsm8k", "generated_solution": "2"},
        ],
        ranking(said("1 + 1?"), ["3", "2"], [1, 0], expected_answer="2", error_message="", generation_type="without_code", dataset="gsm8k"),
    ),
    "summaries with ratings": (
        "comparisons",
        [
            {"info": POST, "summary": {"text": " a", "axes": {"overall": 3, "coverage": 7}}, "worker": "w"},
            {"info": POST, "summary": {"text": " b", "axes": {"overall": 6, "coverage": 2}}, "worker": "w"},
        ],
        ranking(TLDR, [" a", " b"], [1, 0], worker="w"),
    ),
    "BeaverTails": (
        "demonstrations",
        {"prompt": "Hi", "response": "a", "category": {"violence": False}, "is_safe": True},
        {"category": {"violence": False}, "prompt": "Hi", "completion": "a"},
    ),
    "messages": (
        "demonstrations",
        {"prompt": "Hi", "prompt_id": "x", "messages": said("Hi", "Hello!", "Who?", "Anna."), "category": "Chat"},
        {
            "prompt": [said("Hi")[0], {"role": "assistant", "content": "Hello!", "weight": 1}, said("Who?")[0]],
            "completion": said("", "Anna.")[1:], "prompt_id": "x", "category": "Chat",
        },
    ),
    "alternating texts": (
        "demonstrations",
        {"conversations": ["Hi", "Hello!"], "source": "stackexchange"},
        {"source": "stackexchange", "prompt": said("Hi"), "completion": said("", "Hello!")[1:]},
    ),
    "Glaive": (
        "demonstrations",
        {
            "system": "SYSTEM: Be kind.",
            "chat": "USER: Hi\n\n\nASSISTANT: <functioncall> {} <|endoftext|>\n\n\nFUNCTION RESPONSE: 3\n\n\nASSISTANT: Three. <|endoftext|>\n\n\n",
        },
        {
            "prompt": [
                SYSTEM, *said("Hi"), {"role": "assistant", "content": "<functioncall> {}", "weight": 1},
                {"role": "tool", "content": "3"},
            ],
            "completion": said("", "Three.")[1:],
        },
    ),
    "a demonstration": ("demonstrations", {"prompt": "Hi", "completion": " a", "answer": 7}, {"prompt": "Hi", "completion": " a", "answer": 7}),
    "Self-Instruct": (
        "demonstrations",
        {"id": "seed_1", "instruction": "Add.", "instances": [{"input": "1, 2", "output": "3"}]},
        {"id": "seed_1", "prompt": said("Add.\n\n1, 2"), "completion": "3"},
    ),
    "Alpaca": (
        "demonstrations",
        {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "Below ... Add. ... 1, 2 ... 3"},
        {"text": "Below ... Add. ... 1, 2 ... 3", "prompt": said("Add.\n\n1, 2"), "completion": "3"},
    ),
    "Natural Instructions": (
        "demonstrations",
        {"task_name": "task1", "id": "1", "definition": "Is it positive?", "inputs": "Nice.", "targets": "yes"},
        {"task_name": "task1", "id": "1", "prompt": said("Is it positive?\n\nNice."), "completion": "yes"},
    ),
    "calls of tools": (
        "demonstrations",
        {"id": 1, "query": "1?", "answers": '[{"name": "add", "arguments": {"a": 1}}]', "tools": '[{"name": "add", "description": "Adds.", "parameters": {}}]'},
        {
            "id": 1, "prompt": said("1?"),
            "completion": [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]}],
            "tools": [{"type": "function", "function": TOOL}],
        },
    ),
    "a question and an answer": (
        "demonstrations",
        {"type": "GSM_Rephrased", "query": "What is 1 + 2?", "original_question": "Add 1 and 2.", "response": "3"},
        {"type": "GSM_Rephrased", "original_question": "Add 1 and 2.", "prompt": said("What is 1 + 2?"), "completion": "3"},
    ),
    "an input and an output": ("demonstrations", {"kind": "NLI", "input": "Hi", "target": "a"}, {"kind": "NLI", "prompt": said("Hi"), "completion": "a"}),
    "a prompt and a response": (
        "demonstrations",
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "response": " a", "chosen": " a", "rejected": " b"},
        {"prompt": said("Hi"), "completion": "a"},
    ),
    "two roles": (
        "demonstrations",
        {"role_1": "Physicist", "topic": "Optics", "message_1": "Why?", "message_2": "So."},
        {"role_1": "Physicist", "topic": "Optics", "prompt": said("Why?"), "completion": "So."},
    ),
    "a prompt": (
        "prompts",
        {"data_source": "math", "prompt": said("1 + 1?"), "ability": "MATH", "reward_model": {"ground_truth": "2"}},
        {"data_source": "math", "prompt": said("1 + 1?"), "ability": "MATH", "reward_model": {"ground_truth": "2"}},
    ),
    "an instruction": ("prompts", {"instruction": "Add.", "input": "1, 2"}, {"prompt": said("Add.\n\n1, 2")}),
    "a question": ("prompts", {"question": "Why?", "answer": 42}, {"prompt": said("Why?"), "answer": 42}),
    "text": ("text", {"text": "Once.", "timestamp": "2019", "url": "x"}, {"text": "Once.", "timestamp": "2019", "url": "x"}),
    "a transcript": (
        "demonstrations",
        {"text": "### Human: Hi### Assistant: Hello!"},
        {"prompt": said("Hi"), "completion": said("", "Hello!")[1:]},
    ),
}  # fmt: skip
