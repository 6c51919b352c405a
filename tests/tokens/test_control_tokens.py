"""Special tokens in the text of rows: they are text, and end no turn, unless the text was rendered on purpose."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlhf import InputError
from rlhf.rows import Tally
from rlhf.tokens import (
    RefusedChat,
    comparison_dataset,
    completion_ids,
    demonstration_dataset,
    load_tokenizer,
    prepare_tokenizer,
    prompt_dataset,
    prompt_ids,
    text_dataset,
    text_ids,
)
from tests.tokens.test_labels import (
    CALL,
    CHATML,
    LLAMA_2,
    LLAMA_3,
    TOOLS,
    WITH_TOOLS,
    example_of,
    learned_runs,
    message,
    with_template,
)

TEMPLATES = {"none": None, "ChatML": CHATML, "Llama 2": LLAMA_2, "Llama 3": LLAMA_3}


def templated(tokenizer, name):
    return (tokenizer, [tokenizer.eos_token_id]) if name == "none" else with_template(tokenizer, TEMPLATES[name])


def chat_of(word):
    """A chat whose contents have a word in the middle, at the start and at the end."""
    return [
        message("user", f"a {word} fox?"),
        message("assistant", f"the fox {word}", weight=1),
        message("user", f"{word} x"),
        message("assistant", f"no {word}{word}!"),
    ]


def row_of(chat, **columns):
    return {"prompt": chat[:-1], "completion": chat[-1:], **columns}


def special(tokenizer, ids):
    """The special tokens among ids."""
    names = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return [names[i] for i in ids if i in names]


# --- plain text -------------------------------------------------------------------------------------------------------


def test_control_tokens_in_strings_are_characters_in_the_rows_of_every_stage(any_tokenizer):
    eos, bos = any_tokenizer.eos_token, special(any_tokenizer, prompt_ids(any_tokenizer, ["a"])[0])
    text = f"What is {eos} for?"
    row = {"prompt": text, "completion": f" the {eos} ends"}
    example = demonstration_dataset([row], any_tokenizer, 999, Tally(used=1))[0]
    assert special(any_tokenizer, example["input_ids"]) == [*bos, eos]
    assert any_tokenizer.decode(example["input_ids"], skip_special_tokens=True).split() == (
        f"What is {eos} for? the {eos} ends".split()
    )
    assert example["labels"][-1] == any_tokenizer.eos_token_id
    ranking = {"prompt": text, "completions": [f" {eos}", " no"], "ranks": [0, 1]}
    sequences = comparison_dataset([ranking], any_tokenizer, 999, Tally(used=1))[0]["sequences"]
    assert [special(any_tokenizer, ids) for ids in sequences] == [[*bos, eos]] * 2
    assert special(any_tokenizer, prompt_dataset([{"prompt": text}], any_tokenizer, 99, Tally())[0]["input_ids"]) == bos
    pieces = text_dataset([{"text": text}], any_tokenizer, 99)["input_ids"]
    assert [special(any_tokenizer, ids) for ids in pieces] == [[*bos, eos]]


@given(st.lists(st.sampled_from(["EOS", "PAD", "fox", " ", "\n", "<", "|>", "é", "🦊"]), min_size=1, max_size=8))
def test_every_text_decodes_to_itself_whatever_control_tokens_it_contains(tokenizer, parts):
    text = "".join(parts).replace("EOS", tokenizer.eos_token).replace("PAD", tokenizer.pad_token)
    (before,), (after,) = prompt_ids(tokenizer, [text]), completion_ids(tokenizer, [text], [text])
    assert tokenizer.decode(before, skip_special_tokens=True) == text
    assert tokenizer.decode(before + after, skip_special_tokens=True) == text + text
    assert special(tokenizer, before + after) == [tokenizer.eos_token]


def test_a_token_that_is_not_special_stays_a_token(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<think>"], special_tokens=False)
    (ids,) = prompt_ids(tokenizer, [f"<think> {tokenizer.eos_token}"])
    assert ids[0] == tokenizer.convert_tokens_to_ids("<think>") and not special(tokenizer, ids)


# --- chats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
def test_only_the_special_tokens_of_the_template_are_special(any_tokenizer, name):
    """The special tokens and learned replies are those of a chat with a word of letters in place of the tokens."""
    tokenizer, stops = templated(any_tokenizer, name)
    words = [tokenizer.eos_token, "<|im_end|>", "<|eot|>", tokenizer.pad_token]
    other = example_of(tokenizer, stops, row_of(chat_of("dog")))
    for word in words:
        example = example_of(tokenizer, stops, row_of(chat_of(word)))
        assert special(tokenizer, example["input_ids"]) == special(tokenizer, other["input_ids"])
        ours, theirs = (
            [
                tokenizer.decode(run, skip_special_tokens=True)
                for run in learned_runs(one["input_ids"], [label != -100 for label in one["labels"]])
            ]
            for one in (example, other)
        )
        assert ours == [text.replace("dog", word) for text in theirs]
        assert example["not_located"] == 0


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_special_token_that_is_the_name_of_a_role_is_special_in_the_template_alone(tokenizer, role):
    plain, stops = with_template(tokenizer, CHATML)
    word, _ = with_template(tokenizer, CHATML)
    word.add_tokens([role], special_tokens=True)
    call = [{**CALL[0], "function": {"name": "look", "arguments": {"role": "<|im_end|>", "type": "a <|im_end|>"}}}]
    for chat in (chat_of(role), [message("user", f"{role} a"), message("assistant", role, tool_calls=call)]):
        with_tools = CHATML.replace("m.content", "m.content ~ (m.tool_calls | tojson if m.tool_calls else '')")
        plain.chat_template = word.chat_template = with_tools
        expected, example = (example_of(one, stops, row_of(chat)) for one in (plain, word))
        assert word.decode(example["input_ids"]) == plain.decode(expected["input_ids"])
        turns = [m["role"] for m in chat if m["role"] == role]
        assert sorted(special(word, example["input_ids"])) == sorted([*special(plain, expected["input_ids"]), *turns])


def test_a_chinese_bert_tokenizer_encodes_its_separator_as_characters(shared):
    tokenizer = load_tokenizer(shared / "tokenizers" / "bert-zh")
    (ids,) = prompt_ids(tokenizer, [[message("user", "你[SEP]好[UNK]")]])
    assert special(tokenizer, ids) == ["[CLS]"]
    assert "你[sep]好[unk]assistant" in tokenizer.decode(ids).replace(" ", "")


def test_control_tokens_in_tool_calls_thoughts_and_tools_are_characters(tokenizer):
    template = WITH_TOOLS.replace("{{ m.content or '' }}", "{{ m.reasoning_content }}{{ m.content or '' }}")
    tokenizer, stops = with_template(tokenizer, template)
    call = [{**CALL[0], "function": {"name": "look", "arguments": {"at": "<|eot|>"}}}]
    chat = [message("user", "a?"), message("assistant", "", tool_calls=call, reasoning_content="<|eot|> hmm")]
    tools = [{**TOOLS[0], "description": "ends with <|eot|>"}]
    example = example_of(tokenizer, stops, row_of(chat, tools=tools))
    turn = ["<|start|>", "<|end|>"]
    assert special(tokenizer, example["input_ids"]) == ["<user>", *turn, "<|eot|>", *turn, "<|eot|>"]
    assert tokenizer.decode(example["input_ids"]).count("<|eot|>") == 5


def test_the_replies_within_a_completion_are_learned_with_their_control_tokens(any_tokenizer):
    tokenizer, stops = with_template(any_tokenizer, LLAMA_3)
    chat = chat_of("<|eot|>")
    example = example_of(tokenizer, stops, {"prompt": chat[:1], "completion": chat[1:]})
    runs = learned_runs(example["input_ids"], [label != -100 for label in example["labels"]])
    assert [special(tokenizer, run)[:1] for run in runs] == [["<|eot|>"]] * 2
    assert ["fox" in tokenizer.decode(runs[0]), "no" in tokenizer.decode(runs[1])] == [True, True]


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
@pytest.mark.parametrize("strips", [False, True])
def test_spaces_around_special_tokens_are_those_of_the_template(scheme, strips):
    """Tokenizers like Mistral's put a space before the first word, and Phi's remove those after a special token."""
    backend = Tokenizer(
        models.BPE({"<unk>": 0, "</s>": 1, **{c: i for i, c in enumerate("▁</s>|enduraofx?\n", 2)}}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    tokenizer.add_tokens([AddedToken("<|end|>", special=True, rstrip=strips)])
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ' ' + m.content + '<|end|>\n' }}{% endfor %}"
    tokenizer = prepare_tokenizer(tokenizer)
    (ids,), (other,) = (
        prompt_ids(tokenizer, [[message("user", f"a {w} fox"), message("user", w)]]) for w in ("<|end|>", "??")
    )
    assert special(tokenizer, ids) == ["<|end|>"] * 2
    assert tokenizer.decode(ids).replace("a <|end|> fox", "a ?? fox").replace(
        "user <|end|>", "user ??"
    ) == tokenizer.decode(other)
    assert len(ids) == len(other) + 2 * len("<|end|>") - 2 * len("??")


# --- rows that can't be encoded, and rendered rows --------------------------------------------------------------------


def test_a_template_that_reads_control_tokens_drops_the_row(tokenizer):
    tokenizer, stops = with_template(tokenizer, CHATML.replace("m.content", "m.content.split('<|eot|>')[0]"))
    tally = Tally(used=2)
    rows = [row_of(chat_of("<|eot|>")), row_of(chat_of("dog"))]
    assert len(demonstration_dataset(rows, tokenizer, 999, tally, stops)) == 1
    assert (tally.used, tally.dropped) == (1, {"control tokens that the chat template reads": 1})
    assert tally.as_text == 1


def test_a_tokenizer_that_finds_a_control_token_in_its_vocabulary_drops_the_row():
    """A Unigram vocabulary may hold the eos token as a word."""
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", -1.0), *((c, -9.0) for c in "</s>abc ")], 0))
    tokenizer = prepare_tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    )
    assert len(prompt_ids(tokenizer, ["a b"])[0]) == 3
    with pytest.raises(RefusedChat, match="can't encode the control tokens in 'a </s> b' as characters"):
        prompt_ids(tokenizer, ["a </s> b"])
    tally = Tally(used=1)
    with pytest.raises(InputError, match="control tokens that the tokenizer can't encode as characters"):
        prompt_dataset([{"prompt": "a </s>"}], tokenizer, 99, tally)


def test_the_counts_name_the_rows_with_control_tokens_and_the_option(tokenizer):
    tally = Tally(used=2)
    prompt_dataset([{"prompt": f"a {tokenizer.eos_token}"}, {"prompt": "a"}], tokenizer, 99, tally)
    assert (tally.used, tally.as_text, tally.dropped) == (2, 1, {})
    assert str(tally).endswith("(1 with control tokens as text; rendered: true under data makes them control tokens)")
    assert tally.as_dict() == {"used": 2, "dropped": {}, "as_text": 1}
    assert "as_text" not in Tally(used=2).as_dict()


@pytest.mark.parametrize("flag", [True, "true", 1, "<b>page</b>"])
def test_rendered_text_has_its_control_tokens_and_one_bos(shared, flag):
    tokenizer = load_tokenizer(shared / "models" / "stories260K")
    text = "<s>[INST] a fox? [/INST] yes </s>"
    expected = AutoTokenizer.from_pretrained(shared / "models" / "stories260K")(text, add_special_tokens=False)
    ids = text_dataset([{"text": text, "rendered": flag}], tokenizer, 999)[0]["input_ids"]
    assert (ids == expected.input_ids) == (flag is True)
    assert special(tokenizer, ids) == ["<s>", "</s>"]
    row = {"prompt": "<s>[INST] a fox? [/INST]", "completion": " yes </s>", "rendered": flag}
    example = demonstration_dataset([row], tokenizer, 999, Tally(used=1))[0]
    assert (example["input_ids"] == expected.input_ids) == (flag is True)


# --- bos --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["models/stories260K", "tokenizers/bert-zh"])
def test_chats_begin_like_strings_if_the_tokenizer_has_no_template(shared, tmp_path, name):
    tokenizer = load_tokenizer(shared / name)
    beginning = tokenizer("a").input_ids[:1]
    chat = [message("user", "a?"), message("assistant", "b")]
    (before,), (whole,) = prompt_ids(tokenizer, [chat[:1]]), text_ids(tokenizer, [chat])
    assert beginning[0] in (tokenizer.bos_token_id, tokenizer.cls_token_id)
    for ids in (before, whole):
        assert ids[:1] == beginning and ids.count(beginning[0]) == 1
    assert whole[: len(before)] == before and completion_ids(tokenizer, [chat[:1]], ["b"])[0][-1] == whole[-1]
    # the saved tokenizer renders the same with transformers alone
    tokenizer.save_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.apply_chat_template(chat[:1], add_generation_prompt=True, return_dict=False) == before
    assert prompt_ids(load_tokenizer(tmp_path), [chat[:1]]) == [before]


def test_the_template_of_a_tokenizer_without_bos_has_no_beginning(tokenizer, shared):
    for one in (tokenizer, load_tokenizer(shared / "tokenizers" / "gpt2")):
        assert one.chat_template.startswith("{% for message in messages %}")


# --- a completion that is tokenised alone -----------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "completion"), [("a t", "he fox"), ("On", "ce upon"), ("the do", "g </s> x")])
def test_prompt_and_completion_of_a_llama_decode_to_the_text(shared, prompt, completion):
    tokenizer = load_tokenizer(shared / "models" / "stories260K")
    (before,), (after,) = prompt_ids(tokenizer, [prompt]), completion_ids(tokenizer, [prompt], [completion])
    assert tokenizer.decode(before[1:] + after[:-1]) == prompt + completion
