"""Which tokens of a chat are learned: those that the model would generate, and no header of a turn."""

import copy
import re
from itertools import groupby

import pytest

from rlhf import InputError
from rlhf.rows import Tally
from rlhf.tokens import RefusedChat, demonstration_dataset, load_tokenizer, prompt_dataset, prompt_ids, text_dataset

# each with the keyword of transformers around what the model generates
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token or '' }}{{ '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{% generation %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '<|end|>\n\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot|>' }}{% endgeneration %}"
    "{% else %}{{ m.content | trim + '<|eot|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)
WITH_KEYWORD = {"ChatML": CHATML, "Llama 2": LLAMA_2, "Llama 3": LLAMA_3}
MARKERS = ["<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>", "<user>", "<bot>"]


def message(role, content, **others):
    return {"role": role, "content": content, **others}


CHAT = [
    message("user", "a fox?"),
    message("assistant", "the quick fox, the dog", weight=1),
    message("user", "the dog?"),
    message("assistant", "no ! 🦊 fox?", weight=1),
    message("user", "the quick fox, the dog"),
    message("assistant", "assistant\nuser"),
]


def row_of(chat=CHAT, **columns):
    return {"prompt": chat[:-1], "completion": [chat[-1]], **columns}


def with_template(tokenizer, template):
    """The tokenizer with another chat template, the markers of turns as tokens, and the ids of its stop tokens."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(MARKERS, special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer, [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|eot|>"])]


def example_of(tokenizer, stops, row, **options):
    (example,) = demonstration_dataset([row], tokenizer, 4096, Tally(used=1), stops, **options)
    return example


def learned_runs(ids, learned):
    """The ids of each run of learned tokens."""
    runs = groupby(zip(ids, learned, strict=True), key=lambda pair: pair[1])
    return [[token for token, _ in run] for is_learned, run in runs if is_learned]


def learned_texts(tokenizer, example):
    """The text of each run of learned tokens, without the spaces that a Llama's tokenizer adds before words."""
    runs = learned_runs(example["input_ids"], [label != -100 for label in example["labels"]])
    return [re.sub(r"(<\|.*?\|>|</s>) +", r"\1", tokenizer.decode(run)) for run in runs]


def without_keyword(template):
    return re.sub(r"{% (end)?generation %}", "", template)


# --- compared with TRL ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_KEYWORD)
def test_the_learned_tokens_are_those_of_the_assistant_only_loss_of_trl(any_tokenizer, name):
    """TRL takes its mask from transformers, which takes it from the keyword in the template."""
    tokenizer, stops = with_template(any_tokenizer, WITH_KEYWORD[name])
    theirs = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    example = example_of(tokenizer, stops, row_of())
    runs = learned_runs(theirs["input_ids"], [flag == 1 for flag in theirs["assistant_masks"]])
    assert learned_runs(example["input_ids"], [label != -100 for label in example["labels"]]) == runs
    assert len(runs) == 3 and example["not_located"] == 0


@pytest.mark.parametrize("name", WITH_KEYWORD)
def test_the_keyword_changes_nothing(tokenizer, name):
    with_it, without_it = (
        example_of(*with_template(tokenizer, template), row_of())
        for template in (WITH_KEYWORD[name], without_keyword(WITH_KEYWORD[name]))
    )
    assert with_it == without_it


# --- expectations made by hand ----------------------------------------------------------------------------------------

TURN = "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }}"
OPEN = "{% if add_generation_prompt %}<bot>{% endif %}"
# template, and how it renders the content of an earlier and of the last reply
BY_HAND = {
    "ends turns with eos": (TURN + "{{ m.content }}{{ eos_token if m.role != 'user' }}{% endfor %}" + OPEN, "{}EOS", "{}EOS"),
    "strips contents": (TURN + "{{ m.content | trim }}{{ eos_token if m.role != 'user' }}{% endfor %}" + OPEN, "{}EOS", "{}EOS"),
    "has no stop token after earlier replies": (TURN + "{{ m.content }}{{ eos_token if loop.last }}{% endfor %}" + OPEN, "{}", "{}EOS"),
    "ends replies with a line break and eos, earlier ones with a line break": (
        TURN + "{{ m.content + '\n' }}{{ eos_token if loop.last }}{% endfor %}" + OPEN, "{}\n", "{}\nEOS",
    ),
    "begins a thought where a reply is generated": (
        TURN + "{{ m.content }}{{ eos_token if m.role != 'user' }}{% endfor %}{{ '<bot><think>' if add_generation_prompt }}",
        "{}EOS", "\n</think>\n\n{}EOS",
    ),
    "begins and ends a thought in the last reply": (
        TURN + "{{ 'fox dog ' if loop.last and m.role != 'user' }}{{ m.content }}{{ eos_token if m.role != 'user' }}{% endfor %}" + OPEN,
        "{}EOS", "fox dog {}EOS",
    ),
    "has a stop token that begins the next turn": (
        "{% for m in messages %}{{ '<|eot|>user ' if m.role == 'user' else '<bot>' }}{{ m.content }}{% endfor %}" + OPEN,
        "{}<|eot|>", "{}EOS",
    ),
    "describes a header in words": (
        "{% for m in messages %}{{ '<user>the user: ' if m.role == 'user' else '<bot>no ! the bot:' }}{{ m.content }}"
        "{{ eos_token if m.role != 'user' }}{% endfor %}{{ '<bot>no ! the bot:<think>' if add_generation_prompt }}",
        "{}EOS", "\n</think>\n\n{}EOS",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_every_reply_is_learned_with_its_stop_token_and_without_its_header(any_tokenizer, name):
    template, earlier, last = BY_HAND[name]
    tokenizer, stops = with_template(any_tokenizer, template)
    example = example_of(tokenizer, stops, row_of())
    assert example["input_ids"][: -len(learned_ids_at_end(example))] == prompt_ids(tokenizer, [CHAT[:-1]])[0]
    expected = [
        rendered.format(m["content"]).replace("EOS", tokenizer.eos_token)
        for rendered, m in zip((earlier, earlier, last), CHAT[1::2], strict=True)
    ]
    assert [text.strip(" ") for text in learned_texts(tokenizer, example)] == expected
    assert example["not_located"] == 0


def learned_ids_at_end(example):
    """The learned ids at the end of an example."""
    unlearned = [i for i, label in enumerate(example["labels"]) if label == -100]
    return example["input_ids"][unlearned[-1] + 1 :]


def test_the_template_for_tokenizers_without_one_learns_every_reply(any_tokenizer):
    example = example_of(any_tokenizer, (), row_of())
    expected = [f" {m['content']}{any_tokenizer.eos_token}".lstrip() for m in CHAT[1::2]]
    assert [text.lstrip() for text in learned_texts(any_tokenizer, example)] == expected


def test_a_chinese_bert_tokenizer_learns_every_reply(shared):
    tokenizer = load_tokenizer(shared / "tokenizers" / "bert-zh")
    words = ["你好吗?", "我很好", "真的吗?", "是的"]
    chat = [message("assistant" if i % 2 else "user", word, weight=1) for i, word in enumerate(words)]
    example = example_of(tokenizer, (), row_of(chat))
    assert [text.replace(" ", "") for text in learned_texts(tokenizer, example)] == ["我很好[SEP]", "是的[SEP]"]


def test_the_thoughts_of_an_earlier_reply_are_not_learned_if_the_template_removes_them(tokenizer):
    template = (
        TURN + "{{ m.content if loop.last else m.content.split('</think>')[-1] }}"
        "{{ eos_token if m.role != 'user' }}{% endfor %}" + OPEN
    )
    tokenizer, stops = with_template(tokenizer, template)
    reply = message("assistant", "<think>a dog</think>the fox", weight=1)
    example = example_of(tokenizer, stops, row_of([message("user", "a?"), reply, message("user", "?"), reply]))
    eos = tokenizer.eos_token
    assert learned_texts(tokenizer, example) == [f"the fox{eos}", f"<think>a dog</think>the fox{eos}"]


def test_a_token_that_spans_a_header_and_a_reply_is_not_learned(tokenizer):
    """The text " the" is one token; the header's "t" is part of it, and the reply begins after it."""
    the = tokenizer(" the").input_ids
    assert len(the) == 1
    template = (
        TURN + "{{ ' t' if m.role != 'user' }}{{ m.content }}{% endfor %}{{ '<bot> t' if add_generation_prompt }}"
    )
    tokenizer, stops = with_template(tokenizer, template)
    chat = [
        message("user", "a?"),
        message("assistant", "he fox", weight=1),
        message("user", "?"),
        message("assistant", "a"),
    ]
    example = example_of(tokenizer, stops, row_of(chat))
    assert the[0] in example["input_ids"]
    assert learned_texts(tokenizer, example)[0] == " fox"


def test_an_earlier_reply_that_the_template_changes_is_counted_and_not_learned(tokenizer):
    template = TURN + "{{ m.content if loop.last else m.content | upper }}{% endfor %}" + OPEN
    tokenizer, stops = with_template(tokenizer, template)
    example = example_of(tokenizer, stops, row_of())
    assert example["not_located"] == 2
    assert learned_texts(tokenizer, example) == [f"assistant\nuser{tokenizer.eos_token}"]


# --- weights ----------------------------------------------------------------------------------------------------------


def test_a_reply_of_the_prompt_is_learned_only_with_a_weight_above_0(tokenizer):
    eos, weights = tokenizer.eos_token, (None, 0, 1)
    replies = [message("assistant", word, weight=w) for word, w in zip(("fox", "dog", "yes"), weights, strict=True)]
    del replies[0]["weight"]
    chat = [m for reply in replies for m in (message("user", "a?"), reply)] + [message("user", "?")]
    example = example_of(tokenizer, (), row_of([*chat, message("assistant", "no")]))
    assert learned_texts(tokenizer, example) == [f" yes{eos}", f" no{eos}"]
    last_alone = example_of(tokenizer, (), row_of([*chat, message("assistant", "no")]), last_reply_only=True)
    assert learned_texts(tokenizer, last_alone) == [f" no{eos}"]
    assert last_alone["input_ids"] == example["input_ids"]
    assert learned_texts(tokenizer, example_of(tokenizer, (), {"prompt": chat, "completion": "no"}))[-1] == f" no{eos}"


def test_a_completion_with_weight_0_is_not_learned_and_a_row_without_a_learned_reply_is_dropped(tokenizer):
    chat = [*CHAT[:-1], message("assistant", "no", weight=0)]
    assert len(learned_texts(tokenizer, example_of(tokenizer, (), row_of(chat)))) == 2
    tally = Tally(used=2)
    demonstration_dataset([row_of(chat), row_of()], tokenizer, 4096, tally, last_reply_only=True)
    assert (tally.used, tally.dropped) == (1, {"without a reply to learn": 1})


def test_no_weight_reaches_the_chat_template(tokenizer):
    tokenizer, stops = with_template(tokenizer, "{% for m in messages %}{{ m.items() | list }}{% endfor %}<bot>")
    assert "weight" not in tokenizer.decode(prompt_ids(tokenizer, [CHAT])[0])


def test_the_users_turns_within_a_completion_are_not_learned(any_tokenizer):
    for template in (LLAMA_3, BY_HAND["begins a thought where a reply is generated"][0]):
        tokenizer, stops = with_template(any_tokenizer, template)
        example = example_of(tokenizer, stops, {"prompt": CHAT[:1], "completion": CHAT[1:]})
        end = "<|eot|>" if template == LLAMA_3 else tokenizer.eos_token
        first = "" if template == LLAMA_3 else "</think>\n\n"  # ends the thought that the generation prompt begins
        expected = [first + CHAT[1]["content"] + end, *(m["content"] + end for m in CHAT[3::2])]
        assert [text.strip() for text in learned_texts(tokenizer, example)] == expected


# --- tools ------------------------------------------------------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
CALL = [{"type": "function", "function": {"name": "look", "arguments": {"at": "fox"}}}]
WITH_TOOLS = (
    "{% if tools %}{{ '<user>' + (tools | tojson) }}{% endif %}"
    "{% for m in messages %}{{ '<|start|>' + m.role + '<|end|>' }}{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}{{ '<|eot|>' }}{% endfor %}"
    "{{ '<|start|>assistant<|end|>' if add_generation_prompt }}"
)
TOOL_CHAT = [
    message("user", "a fox?"),
    message("assistant", "", tool_calls=CALL, weight=1),
    message("tool", "the fox"),
    message("assistant", "yes"),
]
UNRENDERED = "tool calls that the chat template does not render"


def test_tool_calls_are_learned_and_the_answers_of_tools_are_not(any_tokenizer):
    tokenizer, stops = with_template(any_tokenizer, WITH_TOOLS)
    expected = ['{"name": "look", "arguments": {"at": "fox"}}<|eot|>', "yes<|eot|>"]
    for first in ("", None):  # the content of a message that only calls a tool
        chat = [TOOL_CHAT[0], {**TOOL_CHAT[1], "content": first}, *TOOL_CHAT[2:]]
        for row in (row_of(chat, tools=TOOLS), {"prompt": chat[:1], "completion": chat[1:], "tools": TOOLS}):
            example = example_of(tokenizer, stops, row)
            assert [text.strip() for text in learned_texts(tokenizer, example)] == expected
            assert '"properties": {}' in tokenizer.decode(example["input_ids"])
    example = example_of(tokenizer, stops, {"prompt": chat[:1], "completion": chat[1:2]})
    assert [text.strip() for text in learned_texts(tokenizer, example)] == expected[:1]


def test_tool_calls_after_another_generation_prompt_are_learned_without_the_header(tokenizer):
    tokenizer, stops = with_template(tokenizer, WITH_TOOLS.replace("assistant<|end|>'", "assistant<|end|><bot>'"))
    example = example_of(tokenizer, stops, row_of(TOOL_CHAT[:2]))
    assert learned_texts(tokenizer, example) == ['{"name": "look", "arguments": {"at": "fox"}}<|eot|>']


@pytest.mark.parametrize("template", [
    BY_HAND["ends turns with eos"][0],
    TURN + "{{ m.content + '' }}{% endfor %}" + OPEN,  # an error if the content is null
    TURN + "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.arguments.at[0].x.y }}{% endfor %}{% endfor %}",
    LLAMA_2,  # refuses the role
], ids=["omits", "null content", "undefined", "roles"])  # fmt: skip
@pytest.mark.parametrize("content", ["", None])
def test_rows_whose_tool_calls_are_not_rendered_are_dropped_and_counted(tokenizer, template, content):
    tokenizer, stops = with_template(tokenizer, template)
    chat = [TOOL_CHAT[0], {**TOOL_CHAT[1], "content": content}, *TOOL_CHAT[2:]]
    tally = Tally(used=3)
    rows = [row_of(chat), row_of(CHAT), {"prompt": "a", "completion": [chat[1]]}]
    assert len(demonstration_dataset(rows, tokenizer, 4096, tally, stops)) == 1
    assert (tally.used, tally.dropped) == (1, {UNRENDERED: 2})


# --- chats that a template refuses ------------------------------------------------------------------------------------


def test_chats_that_the_template_refuses_are_dropped_and_counted(tokenizer):
    tokenizer, stops = with_template(tokenizer, LLAMA_2)
    twice = [CHAT[0], CHAT[0]]
    reason = {"refused by the chat template: roles must alternate": 1}
    tally = Tally(used=3)
    assert prompt_dataset([{"prompt": p} for p in ("a", twice, CHAT[:1])], tokenizer, 99, tally)["row"] == [0, 2]
    assert (tally.used, tally.dropped) == (2, reason)
    tally = Tally(used=2)
    assert set(text_dataset([{"messages": twice}, {"messages": CHAT}], tokenizer, 999, tally=tally)["row"]) == {1}
    assert (tally.used, tally.dropped) == (1, reason)


def test_an_error_has_the_words_of_the_template_if_it_refuses_every_row(tokenizer):
    tokenizer, _ = with_template(tokenizer, LLAMA_2)
    for make, row in ((prompt_dataset, {"prompt": CHAT[1:2]}), (demonstration_dataset, row_of(CHAT[1:]))):
        with pytest.raises(InputError, match=r"no usable rows are left: .*: roles must alternate\)$"):
            make([row], tokenizer, 99, Tally(used=1))
    with pytest.raises(InputError, match="roles must alternate"):
        text_dataset([{"messages": CHAT[1:2]}], tokenizer, 99)
    with pytest.raises(RefusedChat):
        prompt_ids(tokenizer, [CHAT[1:2]])
