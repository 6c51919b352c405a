"""Every chat template of TRL's package: a completion is what the model would write after the rendered prompt."""

import copy
import os
import re
from pathlib import Path

import pytest
import trl

from rlhf.rows import Tally
from rlhf.tokens import (
    RefusedChat,
    comparison_dataset,
    completion_ids,
    demonstration_dataset,
    prompt_dataset,
    prompt_ids,
)

TEMPLATES = sorted((Path(os.path.dirname(trl.__file__)) / "chat_templates").glob("*.jinja"))
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "looks",
            "parameters": {"type": "object", "properties": {"at": {"type": "string", "description": "where"}}},
        },
    }
]


def said(role, content, **others):
    return {"role": role, "content": content, **others}


QUESTION, AGAIN = said("user", "a fox?"), said("user", "a dog?")
PLAIN = said("assistant", "Hello.")
INLINE = said("assistant", "<think>\nhmm\n</think>\n\nHello.")
APART = said("assistant", "Hello.", reasoning_content="hmm")
CASES = {
    "a plain reply": ([QUESTION], PLAIN),
    "a thought in the content": ([QUESTION], INLINE),
    "a thought in a column": ([QUESTION], APART),
    "an earlier plain reply": ([QUESTION, PLAIN, AGAIN], PLAIN),
    "an earlier thought in the content": ([QUESTION, INLINE, AGAIN], INLINE),
    "an earlier thought in a column": ([QUESTION, APART, AGAIN], APART),
    "a system message": ([said("system", "be kind"), QUESTION], PLAIN),
    "a system message and a thought": ([said("system", "be kind"), QUESTION, APART, AGAIN], APART),
    "tools": ([QUESTION], PLAIN),
    "tools and a thought": ([QUESTION], APART),
}
REASONS = re.compile(
    "thought of a reply that the chat template omits|refused by the chat template: |"
    "reply that the chat template changes"
)


def with_template(tokenizer, name):
    """The tokenizer with a template of TRL's, some of which need a bos token."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.chat_template = next(path for path in TEMPLATES if path.stem == name).read_text()
    return tokenizer


@pytest.fixture(params=TEMPLATES, ids=lambda path: path.stem)
def templated(request, tokenizer):
    return with_template(tokenizer, request.param.stem)


def rendered_by_transformers(tokenizer, messages, tools, generation=False):
    """The chat as transformers renders it; templates of models that read pictures expect content in parts."""
    parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    for chat in (messages, parts):
        try:
            text = tokenizer.apply_chat_template(chat, tools=tools, tokenize=False, add_generation_prompt=generation)
        except Exception:  # noqa: BLE001  whatever a template raises
            continue
        if all(m["content"].strip()[-6:] in text for m in messages):
            return text
    return ""


def ids_and_text(tokenizer, prompt, reply, tools):
    (before,) = prompt_ids(tokenizer, [prompt], [tools])
    (after,) = completion_ids(tokenizer, [prompt], [[reply]], tools=[tools])
    return tokenizer.decode(before), tokenizer.decode(after)


@pytest.mark.parametrize("case", CASES)
def test_a_completion_is_what_the_template_renders_or_what_the_model_would_write(templated, case):
    (prompt, reply), tools = CASES[case], TOOLS if "tools" in case else None
    try:
        before, after = ids_and_text(templated, prompt, reply, tools)
    except RefusedChat as error:
        assert REASONS.match(error.reason), error.reason
        # no template refuses a plain reply to a question
        assert case != "a plain reply"
        return
    # the prompt is rendered as it is
    assert before.endswith(rendered_by_transformers(templated, [prompt[-1]], None, True)[-12:])
    whole = rendered_by_transformers(templated, [*prompt, reply], tools)
    stop = templated.eos_token
    thinks = reply is not PLAIN
    written = after.removesuffix(stop)
    opened = before.rstrip().endswith("<think>")
    if not (whole.startswith(before) and whole[len(before) :].startswith(written)):
        # what the model would write: its thought, which it closes, then the answer
        assert opened or before.rstrip().endswith("</think>") or "<think>" in after
        assert re.match(r"hmm\s*</think>\s*Hello\." if thinks else r"\s*</think>\s*Hello\.", written), after
    assert after.count("Hello.") == 1 and (after.count("hmm") == 1) == thinks
    assert not re.search(r"<think>\s*</think>\s*<think>", before + after)
    turn = before[before.rfind("a fox?" if AGAIN not in prompt else "a dog?") :] + after
    assert turn.count("<think>") == turn.count("</think>") <= 1


@pytest.mark.parametrize("case", ["a plain reply", "a thought in the content", "an earlier thought in a column"])
def test_the_rows_of_every_stage_have_the_same_tokens(templated, case):
    prompt, reply = CASES[case]
    rows = {
        demonstration_dataset: {"prompt": prompt, "completion": [reply]},
        comparison_dataset: {"prompt": prompt, "completions": [[reply], "no"], "ranks": [0, 1]},
        prompt_dataset: {"prompt": prompt},
    }
    try:
        (before,), (after,) = prompt_ids(templated, [prompt]), completion_ids(templated, [prompt], [[reply]])
    except RefusedChat as error:
        tally = Tally(used=2)
        row = {"prompt": "a", "completion": "b"}
        demonstration_dataset([rows[demonstration_dataset], row], templated, 4096, tally)
        assert tally.dropped == {error.reason: 1}
        return
    examples = {make: make([row], templated, 4096, Tally(used=1))[0] for make, row in rows.items()}
    demonstration = examples[demonstration_dataset]
    assert demonstration["input_ids"] == before + after == examples[comparison_dataset]["sequences"][0]
    assert demonstration["labels"] == [-100] * len(before) + after
    assert examples[prompt_dataset]["input_ids"] == before


@pytest.mark.parametrize(("name", "reply", "expected"), [
    ("deepseek_r1_distill", INLINE, "hmm\n</think>\n\nHello.<｜end▁of▁sentence｜>"),
    ("deepseek_r1_distill", APART, "hmm\n</think>\n\nHello.<｜end▁of▁sentence｜>"),
    ("deepseek_r1_distill", PLAIN, "\n</think>\n\nHello.<｜end▁of▁sentence｜>"),
    ("qwen3_8", INLINE, "hmm\n</think>\n\nHello.<|im_end|>\n"),
    ("qwen3_8", PLAIN, "\n</think>\n\nHello.<|im_end|>\n"),
    ("nemotron_3_nano", PLAIN, "</think>Hello.<|im_end|>\n"),
    ("nemotron_3_nano", INLINE, "hmm\n</think>\n\nHello.<|im_end|>\n"),
    ("qwen3_5_nothink", PLAIN, "Hello.<|im_end|>\n"),
    ("smolvlm", PLAIN, " Hello.<end_of_utterance>\n"),
    ("llava_next", PLAIN, " Hello.</s> "),
])  # fmt: skip
def test_replies_with_and_without_a_thought_after_known_generation_prompts(tokenizer, name, reply, expected):
    tokenizer = with_template(tokenizer, name)
    _, after = ids_and_text(tokenizer, [QUESTION], reply, None)
    assert after.removesuffix(tokenizer.eos_token) == expected


@pytest.mark.parametrize("reply", [INLINE, APART])
def test_a_thought_after_a_generation_prompt_with_an_empty_thought_is_refused(tokenizer, reply):
    with pytest.raises(RefusedChat) as caught:
        ids_and_text(with_template(tokenizer, "qwen3_5_nothink"), [QUESTION], reply, None)
    assert caught.value.reason == "thought of a reply that the chat template omits"


def test_a_completion_that_is_truncated_in_its_thought_continues_the_thought(tokenizer):
    for name in ("deepseek_r1_distill", "qwen3_5_think", "nemotron_3_nano"):
        tokenizer = with_template(tokenizer, name)
        (ids,) = completion_ids(tokenizer, [[QUESTION]], ["hmm, so"], [False])
        assert tokenizer.decode(ids).startswith("hmm, so") and "</think>" not in tokenizer.decode(ids)


@pytest.mark.parametrize("reply", [APART, said("assistant", "Hel", thinking="hmm")])
def test_a_completion_that_is_truncated_after_its_thought_keeps_the_thought(templated, reply):
    try:
        (ids,) = completion_ids(templated, [[QUESTION]], [[reply]], [False])
    except RefusedChat as error:
        assert error.reason == "thought of a reply that the chat template omits"
        return
    text = templated.decode(ids)
    assert text.count("hmm") == 1 and text.index("hmm") < text.index("Hel")


def test_a_thought_that_is_never_closed_gets_no_empty_thought_before_it(templated):
    """A template without thoughts renders it as it is; the others refuse the reply."""
    reply = "<think>\nhmm Hello."
    for finished in (True, False):
        try:
            (before,), (after,) = (
                prompt_ids(templated, [[QUESTION]]),
                completion_ids(templated, [[QUESTION]], [reply], [finished]),
            )
        except RefusedChat as error:
            assert error.reason == "reply that the chat template changes"
            continue
        turn = templated.decode(before + after)
        assert turn.count("<think>") == 1 and "</think>" not in turn


def test_a_reply_with_a_thought_in_a_column_and_another_in_its_content_is_refused(templated):
    with pytest.raises(RefusedChat) as caught:
        completion_ids(templated, [[QUESTION]], [[{**INLINE, "reasoning_content": "so"}]])
    assert caught.value.reason == "reply with thoughts in a column and in its content"
