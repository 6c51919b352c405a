"""From rows to token ids: prompts and completions as they are sampled, chat templates, datasets, batches."""

import copy
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf import InputError
from rlhf.rows import Tally
from rlhf.tokens import (
    batch_order,
    comparison_dataset,
    completion_ids,
    demonstration_dataset,
    load_tokenizer,
    pad,
    prompt_dataset,
    prompt_ids,
    render_chat,
    text_dataset,
    text_ids,
)

# --- prompts and completions ------------------------------------------------------------------------------------------


@given(st.text(max_size=30), st.text(min_size=1, max_size=30))
def test_prompt_and_completion_tokens_decode_to_prompt_completion_and_eos(tokenizer, prompt, completion):
    (before,), (after,) = prompt_ids(tokenizer, [prompt]), completion_ids(tokenizer, [prompt], [completion])
    if tokenizer.eos_token in prompt + completion or tokenizer.pad_token in prompt + completion:
        return
    assert tokenizer.decode(before) == prompt
    assert tokenizer.decode(before + after) == prompt + completion + tokenizer.eos_token
    assert after.count(tokenizer.eos_token_id) == 1


def test_training_sees_the_states_of_sampling_where_a_token_would_span_prompt_and_completion(any_tokenizer):
    """The text " the" is one token. If it is split, the prompt keeps its own ids, from which sampling starts."""
    the = any_tokenizer(" the", add_special_tokens=False).input_ids[-1]
    assert any_tokenizer.decode([the]).strip() == "the"
    (before,), (after,) = prompt_ids(any_tokenizer, ["a t"]), completion_ids(any_tokenizer, ["a t"], ["he"])
    assert the in any_tokenizer("a the").input_ids
    assert the not in before + after
    # a Llama's tokenizer puts no space before a completion that it tokenises alone
    assert any_tokenizer.decode(before + after, skip_special_tokens=True) == "a the"


def test_a_truncated_completion_has_no_eos(tokenizer):
    finished, truncated = completion_ids(tokenizer, ["a", "a"], [" fox", " fox"], [True, False])
    assert truncated == finished[:-1]


def test_a_stop_token_inside_a_completion_does_not_end_it(tokenizer):
    stop = tokenizer("1").input_ids[0]
    (ids,) = completion_ids(tokenizer, ["a"], [" fox 1 dog"], stop_ids=[stop])
    assert tokenizer.decode(ids) == f" fox 1 dog{tokenizer.eos_token}"


def test_the_ids_of_many_completions_are_those_of_each_alone(any_tokenizer):
    """More than are tokenised at a time; some completions merge with the prompt, and some prompts are chat messages."""
    prompts = ["a t", "the quick", [{"role": "user", "content": "a fox?"}], ""] * 300
    completions = ["he fox", " brown fox", "yes!", "x"] * 300
    finished = [True, False, True, True, False, True] * 200
    alone = {
        i: completion_ids(any_tokenizer, [prompts[i]], [completions[i]], [finished[i]])[0]
        for i in (0, 1, 2, 3, 998, 1199)
    }
    together = completion_ids(any_tokenizer, prompts, completions, finished)
    assert len(together) == 1200 and {i: together[i] for i in alone} == alone
    text = any_tokenizer(prompts[1] + completions[1], add_special_tokens=False).input_ids
    assert together[1] == text[-len(together[1]) :]
    all_prompts = prompt_ids(any_tokenizer, prompts)
    assert [prompt_ids(any_tokenizer, [prompts[i]])[0] for i in alone] == [all_prompts[i] for i in alone]


# --- special tokens ---------------------------------------------------------------------------------------------------


def test_a_llama_tokenizer_begins_with_bos_and_a_bert_one_with_cls(shared):
    llama = load_tokenizer(shared / "models" / "stories260K")
    assert prompt_ids(llama, ["Once"])[0][0] == llama.bos_token_id
    assert prompt_ids(llama, ["Once upon"]) == [llama("Once upon").input_ids]
    bert = load_tokenizer(shared / "tokenizers" / "bert-zh")
    assert prompt_ids(bert, ["你好"])[0][0] == bert.cls_token_id
    assert completion_ids(bert, ["你好"], ["吗"])[0][-1] == bert.eos_token_id == bert.sep_token_id
    assert len({bert.eos_token_id, bert.pad_token_id}) == 2


def test_the_tokenizer_of_gpt2_gives_its_published_ids(shared):
    tokenizer = load_tokenizer(shared / "tokenizers" / "gpt2")
    assert text_ids(tokenizer, ["Hello world"]) == [[15496, 995, 50256]]
    assert tokenizer.pad_token_id not in (None, 50256)


def test_pad_and_eos_are_two_tokens_and_the_eos_is_in_the_loss(any_tokenizer):
    assert any_tokenizer.pad_token_id != any_tokenizer.eos_token_id
    dataset = demonstration_dataset([{"prompt": "a", "completion": " fox"}], any_tokenizer, 64, Tally())
    assert dataset[0]["labels"][-1] == any_tokenizer.eos_token_id


# --- chat templates ---------------------------------------------------------------------------------------------------


def with_template(tokenizer, template):
    """The tokenizer with another chat template, and with markers of turns as tokens."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<user>", "<bot>", "<end>"], special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


TURN = "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }}{{ m.content }}"
QUESTION = [{"role": "user", "content": "a fox?"}]
TEMPLATES = {
    "plain": TURN + "{{ eos_token if m.role != 'user' }}{% endfor %}{{ '<bot>' if add_generation_prompt }}",
    "begins a thought where a reply is generated": TURN
    + "{{ eos_token if m.role != 'user' }}{% endfor %}{{ '<bot><think>' if add_generation_prompt }}",
    "adds text to the last turn": "{% for m in messages %}{{ '<bot>' if m.role != 'user' else '<user>' }}"
    "{{ 'be kind ' if loop.last and m.role == 'user' }}{{ m.content }}{{ eos_token if m.role != 'user' }}{% endfor %}"
    "{{ '<bot>' if add_generation_prompt }}",
    "omits thoughts": TURN.replace("m.content", "m.content.split('</think>')[-1]")
    + "{{ eos_token if m.role != 'user' }}{% endfor %}{{ '<bot><think>' if add_generation_prompt }}",
    "ends turns with another token": TURN + "<end>\n{% endfor %}{{ '<bot>' if add_generation_prompt }}",
    "ends turns with another token and eos": TURN + "<end>\n{{ eos_token if m.role != 'user' }}{% endfor %}{{ '<bot>' if add_generation_prompt }}",
}  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_completion_of_a_chat_is_the_reply_and_its_stop_token(tokenizer, template):
    tokenizer = with_template(tokenizer, TEMPLATES[template])
    end = tokenizer.convert_tokens_to_ids("<end>")
    stops = [tokenizer.eos_token_id, end]
    reply = "<think>dog</think>the quick brown fox" if template == "omits thoughts" else "the quick brown fox"
    (ids,) = completion_ids(tokenizer, [QUESTION], [reply], stop_ids=stops)
    # the reply ends the thought that the generation prompt begins
    thought = {"omits thoughts": "dog</think>", "begins a thought where a reply is generated": "</think>\n\n"}
    assert tokenizer.decode(ids[:-1]).strip() == thought.get(template, "") + "the quick brown fox"
    assert ids[-1] == (end if "another token" in template else tokenizer.eos_token_id)
    assert not set(ids[:-1]) & set(stops)


def test_a_reply_whose_words_also_occur_elsewhere_in_the_chat_is_kept_whole(tokenizer):
    tokenizer = with_template(tokenizer, TEMPLATES["begins a thought where a reply is generated"])
    for reply in ("fox", "a", "eos", "end"):
        (ids,) = completion_ids(tokenizer, [QUESTION], [reply])
        assert tokenizer.decode(ids[:-1]) == f"\n</think>\n\n{reply}"
    turns = [
        {"role": role, "content": content}
        for role, content in (("assistant", "fox"), ("user", "dog"), ("assistant", "fox !"))
    ]
    (ids,) = completion_ids(tokenizer, [QUESTION], [turns])
    assert tokenizer.decode(ids[:-1]) == f"\n</think>\n\nfox{tokenizer.eos_token}<user>dog<bot>fox !"


def test_the_completion_of_a_chat_has_all_its_turns(tokenizer):
    tokenizer = with_template(tokenizer, TEMPLATES["ends turns with another token"])
    turns = [{"role": role, "content": "fox"} for role in ("assistant", "user", "assistant")]
    (ids,) = completion_ids(tokenizer, [QUESTION], [turns], stop_ids=[tokenizer.convert_tokens_to_ids("<end>")])
    assert tokenizer.decode(ids) == "fox<end>\n<user>fox<end>\n<bot>fox<end>"


def test_a_chat_template_that_omits_the_reply_is_refused(tokenizer):
    template = "{% for m in messages %}{{ m.role }}{% endfor %}{{ 'bot' if add_generation_prompt }}"
    with pytest.raises(InputError, match="chat template changes the reply 'the quick brown fox'"):
        completion_ids(with_template(tokenizer, template), [QUESTION], ["the quick brown fox"])


def test_chat_messages_are_rendered_by_the_template_and_the_loss_is_that_of_the_reply(tokenizer):
    prompt = [{"role": "user", "content": "a fox?"}]
    for completion in ("yes!", [{"role": "assistant", "content": "yes!"}]):
        dataset = demonstration_dataset([{"prompt": prompt, "completion": completion}], tokenizer, 64, Tally())
        labels = [label for label in dataset[0]["labels"] if label != -100]
        assert tokenizer.decode(dataset[0]["input_ids"]) == "\n\nHuman: a fox?\n\nAssistant: yes!<|endoftext|>"
        assert tokenizer.decode(labels) == " yes!<|endoftext|>"


def test_template_syntax_in_a_message_is_not_evaluated(tokenizer):
    content = "{{ 7 * 7 }}{% for i in range(9) %}x{% endfor %}"
    assert content in render_chat(tokenizer, [{"role": "user", "content": content}])


@pytest.mark.parametrize("template", [
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ raise_exception('roles must alternate') }}",
])  # fmt: skip
def test_a_chat_template_that_raises_or_would_run_code_is_refused(tokenizer, monkeypatch, template):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(InputError, match="chat template refuses 'user: Hi'"):
        prompt_ids(tokenizer, [[{"role": "user", "content": "Hi"}]])


# --- datasets ---------------------------------------------------------------------------------------------------------


def test_the_pieces_of_a_document_longer_than_the_context_hold_all_its_tokens(tokenizer):
    text = "the quick brown fox jumps over the lazy dog " * 9
    pieces = text_dataset([{"text": text}], tokenizer, max_length=16)["input_ids"]
    assert max(map(len, pieces)) == 16
    assert [token for piece in pieces for token in piece] == text_ids(tokenizer, [text])[0]


def test_rows_longer_than_the_maximum_are_dropped_and_counted(tokenizer):
    long = "the quick brown fox jumps over the lazy dog " * 9
    tally = Tally(used=2)
    assert prompt_dataset([{"prompt": long}, {"prompt": "a"}], tokenizer, 16, tally)["row"] == [1]
    assert (tally.used, tally.dropped) == (1, {"longer than 16 tokens": 1})
    rows = [{"prompt": "a", "completions": ["b", long], "ranks": [0, 1]}]
    with pytest.raises(InputError, match="no usable rows are left"):
        comparison_dataset(rows, tokenizer, 16, Tally(used=1))


# --- batches ----------------------------------------------------------------------------------------------------------


def test_padding_is_on_the_given_side():
    left, left_mask = pad([[5, 6], [7]], 1, "left")
    assert (left.tolist(), left_mask.tolist()) == ([[5, 6], [1, 7]], [[1, 1], [0, 1]])
    right, right_mask = pad([[5, 6], [7]], 1, "right")
    assert (right.tolist(), right_mask.tolist()) == ([[5, 6], [7, 1]], [[1, 1], [1, 0]])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 8), st.integers(1, 3), st.integers(0, 5))
def test_every_epoch_has_every_row_once(lengths, batch_size, epochs, seed):
    order = batch_order(lengths, batch_size, epochs, seed)
    for epoch in range(epochs):
        assert sorted(order[epoch * len(lengths) : (epoch + 1) * len(lengths)]) == list(range(len(lengths)))


def test_batches_hold_rows_of_similar_length_and_are_not_ordered_by_length():
    lengths = torch.randint(1, 200, (4096,), generator=torch.Generator().manual_seed(0)).tolist()
    order = batch_order(lengths, 16, 1, seed=0)
    batches = [[lengths[i] for i in order[k : k + 16]] for k in range(0, len(order), 16)]
    spread = sum(max(batch) - min(batch) for batch in batches) / len(batches)
    assert spread < 20  # 175 for random batches
    means = torch.tensor([sum(batch) / 16 for batch in batches])
    correlation = torch.corrcoef(torch.stack([means[:-1], means[1:]]))[0, 1]  # of one batch with the next
    assert abs(float(correlation)) < 0.2


def word_pieces(folder, *words):
    """The folder of a BERT tokenizer with these words, as `uer/gpt2-chinese-cluecorpussmall` has one."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    return folder


@pytest.mark.parametrize(
    "text", ["你好，世界。", "ab你cd好", "hello world", "hello, world.", "好 hello world 好", "第 3 天"]
)
def test_chinese_is_decoded_without_blanks_between_characters_and_english_with_them(text, tmp_path):
    words = [*"你好世界天第，。,.3", "hello", "world", "ab", "cd"]
    tokenizer = load_tokenizer(word_pieces(tmp_path / "bert", *words))
    expected = text if text.isascii() else re.sub(r"(?<=[^\x00-\x7f]) | (?=[^\x00-\x7f])", "", text)
    ids = completion_ids(tokenizer, [""], [text])[0]
    assert tokenizer.decode(ids, skip_special_tokens=True) == expected
    tokenizer.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").decode(ids, skip_special_tokens=True) == expected


def test_the_text_of_more_chinese_tokens_begins_with_that_of_fewer(tmp_path):
    tokenizer = load_tokenizer(word_pieces(tmp_path / "bert", *"你好世界", "hello"))
    ids = tokenizer("你hello好世hello界", add_special_tokens=False).input_ids
    texts = [tokenizer.decode(ids[:n]) for n in range(1, len(ids) + 1)]
    assert texts[-1].startswith("你hello好世") and all(b.startswith(a) for a, b in zip(texts, texts[1:], strict=False))
