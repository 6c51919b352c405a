"""Rows: what is read, what is refused with file and line, what is dropped and counted, and which tokens it becomes."""

import copy
import gzip
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data import (
    Tally,
    batch_order,
    checked,
    comparison_dataset,
    completion_ids,
    demonstration_dataset,
    pad,
    prompt_dataset,
    prompt_ids,
    read_rows,
    render,
    text_dataset,
    text_ids,
)
from rlhf.errors import InputError
from rlhf.models import load_tokenizer


def written(path, *rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def check(kind, *rows):
    tally = Tally()
    return list(checked([(f"f:{i}", row) for i, row in enumerate(rows, 1)], kind, tally)), tally


# --- reading ----------------------------------------------------------------------------------------------------------


def test_rows_are_read_from_jsonl_and_from_gzipped_jsonl_past_blank_lines_and_a_bom(tmp_path):
    plain = written(tmp_path / "a.jsonl", "\ufeff" + json.dumps({"prompt": "é"}), "", {"prompt": "b"})
    zipped = tmp_path / "a.jsonl.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_rows(plain, "prompts") == read_rows(zipped, "prompts") == [{"prompt": "é"}, {"prompt": "b"}]


@pytest.mark.parametrize(
    ("kind", "row", "says"),
    [
        ("prompts", "{", "not JSON"),
        ("prompts", "[1]", "a row is an object"),
        ("prompts", {"text": "a"}, 'no "prompt"; the row has text'),
        ("prompts", {"prompt": 3}, '"prompt" is int'),
        ("prompts", {"prompt": [{"role": "user"}]}, "messages with role and content"),
        (
            "prompts",
            {"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
            'a message of "prompt" has list as its content',
        ),
        ("text", {"words": "a"}, 'no "text"'),
        ("demonstrations", {"prompt": "a"}, 'no "completion"'),
        ("demonstrations", {"prompt": "a", "completion": ["b"]}, '"completion" is list'),
        ("comparisons", {"prompt": "a", "chosen": "b"}, 'no "rejected"'),
        ("comparisons", {"prompt": "a", "completions": ["b", "c"]}, 'no "ranks"'),
        (
            "comparisons",
            {"prompt": "a", "completions": ["b", "c", "d"], "ranks": [0, 1]},
            '"ranks" has 2 entries for 3',
        ),
        ("comparisons", {"prompt": "a", "completions": ["b", "c"], "ranks": ["0", "1"]}, '"ranks" are numbers'),
        ("comparisons", {"prompt": "a", "completions": "b", "ranks": [0]}, "are lists"),
        ("comparisons", {"prompt": "a", "completions": ["b", 5], "ranks": [0, 1]}, '"completion" is int'),
    ],
)
def test_a_wrong_row_is_refused_with_file_and_line(tmp_path, kind, row, says):
    good = {"prompt": "p", "text": "t", "completion": "c", "completions": ["x", "y"], "ranks": [0, 1]}
    path = written(tmp_path / "rows.jsonl", good, row)
    with pytest.raises(InputError) as error:
        read_rows(path, kind)
    assert str(error.value).startswith(f"{path}:2: ")
    assert says in str(error.value)


def test_bytes_that_are_not_utf8_are_refused_with_file_and_line(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"latin\.jsonl:2: not UTF-8"):
        read_rows(path, "prompts")


def test_a_file_that_is_missing_cut_off_or_without_usable_rows_is_refused(tmp_path):
    with pytest.raises(InputError, match="no file at"):
        read_rows(tmp_path / "none.jsonl", "prompts")
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 1000)[:-20])
    with pytest.raises(InputError, match="can't be read"):
        read_rows(cut, "prompts")
    with pytest.raises(InputError, match="no usable prompts .*1 empty prompt"):
        read_rows(written(tmp_path / "empty.jsonl", {"prompt": " "}), "prompts")


# --- dropping ---------------------------------------------------------------------------------------------------------


def test_rows_that_say_nothing_are_dropped_and_counted():
    rows, tally = check(
        "demonstrations",
        {"prompt": "a", "completion": "b"},
        {"prompt": " ", "completion": "b"},
        {"prompt": "a", "completion": ""},
        {"prompt": "a", "completion": None},
        {"prompt": [{"role": "user", "content": ""}], "completion": "b"},
    )
    assert len(rows) == tally.used == 1
    assert tally.dropped == {"empty prompt": 2, "empty completion": 2}
    assert str(tally) == "1 rows (4 dropped: 2 empty prompt, 2 empty completion)"


def test_comparisons_without_a_usable_pair_are_dropped_and_counted():
    _, tally = check(
        "comparisons",
        {"prompt": "a", "chosen": "b", "rejected": "b"},
        {"prompt": "a", "chosen": "b", "rejected": " "},
        {"prompt": "a", "completions": ["b"], "ranks": [0]},
        {"prompt": "a", "completions": ["b", "c"], "ranks": [1, 1]},
    )
    assert tally.used == 0
    assert tally.dropped == {
        "completions all the same": 1,
        "empty completion": 1,
        "fewer than two completions": 1,
        "all completions tied": 1,
    }


def test_a_pair_becomes_a_ranking_of_two():
    rows, _ = check("comparisons", {"prompt": "a", "chosen": "b", "rejected": "c", "id": 7})
    assert rows == [{"prompt": "a", "id": 7, "completions": ["b", "c"], "ranks": [0, 1]}]


def test_of_equal_completions_the_best_stays_with_all_that_belongs_to_it():
    rows, _ = check(
        "comparisons",
        {"prompt": "a", "completions": ["x", "y", "x", ""], "ranks": [2, 1, 0, 3], "ended": [True, True, False, True]},
    )
    assert rows == [{"prompt": "a", "completions": ["y", "x"], "ranks": [1, 0], "ended": [True, False]}]


# --- tokens -----------------------------------------------------------------------------------------------------------


@given(st.text(max_size=30), st.text(min_size=1, max_size=30))
def test_prompt_and_completion_tokens_decode_to_prompt_completion_and_eos(tokenizer, prompt, completion):
    (before,), (after,) = prompt_ids(tokenizer, [prompt]), completion_ids(tokenizer, [prompt], [completion])
    if tokenizer.eos_token in prompt + completion or tokenizer.pad_token in prompt + completion:
        return
    assert tokenizer.decode(before) == prompt
    assert tokenizer.decode(before + after) == prompt + completion + tokenizer.eos_token
    assert after.count(tokenizer.eos_token_id) == 1


@pytest.fixture(params=["new", "gpt2", "llama"])
def any_tokenizer(request):
    """A tokenizer as the pipeline trains it, GPT-2's own, and a Llama's."""
    if request.param == "new":
        return request.getfixturevalue("tokenizer")
    folder = {"gpt2": "tokenizers/gpt2", "llama": "models/stories260K"}[request.param]
    return load_tokenizer(request.getfixturevalue("shared") / folder)


def test_the_states_of_training_are_those_of_sampling_where_a_token_would_span_the_border(any_tokenizer):
    """ " the" is one token; cut in two, the prompt keeps its own tokens, so that sampling starts where training did."""
    the = any_tokenizer(" the", add_special_tokens=False).input_ids[-1]
    assert any_tokenizer.decode([the]).strip() == "the"
    (before,), (after,) = prompt_ids(any_tokenizer, ["a t"]), completion_ids(any_tokenizer, ["a t"], ["he"])
    assert the in any_tokenizer("a the").input_ids
    assert the not in before + after


def test_a_completion_that_was_cut_off_has_no_eos(tokenizer):
    whole, cut = completion_ids(tokenizer, ["a", "a"], [" fox", " fox"], [True, False])
    assert cut == whole[:-1]


def chat(tokenizer, template):
    """The tokenizer with another chat template, and marks of turns as tokens."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<user>", "<bot>", "<end>"], special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


TURN = "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }}{{ m.content }}"
QUESTION = [{"role": "user", "content": "a fox?"}]
TEMPLATES = {
    "plain": TURN + "{{ eos_token if m.role != 'user' }}{% endfor %}{{ '<bot>' if add_generation_prompt }}",
    "opens a thought before a reply to be written": TURN
    + "{{ eos_token if m.role != 'user' }}{% endfor %}{{ '<bot><think>' if add_generation_prompt }}",
    "says more in the last turn": "{% for m in messages %}{{ '<user>be kind ' if loop.last and m.role == 'user' else '<user>' if m.role == 'user' else '<bot>' }}{{ m.content }}{{ eos_token if m.role != 'user' }}{% endfor %}{{ '<bot>' if add_generation_prompt }}",
    "leaves a thought out": "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }}{{ m.content.split('</think>')[-1] }}{{ eos_token if m.role != 'user' }}{% endfor %}{{ '<bot><think>' if add_generation_prompt }}",
    "ends a turn otherwise": TURN + "<end>\n{% endfor %}{{ '<bot>' if add_generation_prompt }}",
    "ends a turn otherwise, and then with eos": TURN + "<end>\n{{ eos_token if m.role != 'user' }}{% endfor %}{{ '<bot>' if add_generation_prompt }}",
}  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_completion_of_a_chat_is_the_reply_and_what_a_response_stops_at(tokenizer, template):
    tokenizer = chat(tokenizer, TEMPLATES[template])
    end = tokenizer.convert_tokens_to_ids("<end>")
    stops = [tokenizer.eos_token_id, end]
    said = "<think>dog</think>the quick brown fox" if "leaves" in template else "the quick brown fox"
    (ids,) = completion_ids(tokenizer, [QUESTION], [said], stop_ids=stops)
    assert tokenizer.decode(ids[:-1]).strip() == "the quick brown fox"
    assert ids[-1] == (end if "otherwise" in template else tokenizer.eos_token_id)
    assert not set(ids[:-1]) & set(stops)


def test_words_of_a_reply_that_stand_elsewhere_as_well_do_not_shorten_it(tokenizer):
    tokenizer = chat(tokenizer, TEMPLATES["opens a thought before a reply to be written"])
    for words in ("fox", "a", "eos", "end"):
        (ids,) = completion_ids(tokenizer, [QUESTION], [words])
        assert tokenizer.decode(ids[:-1]) == words
    turns = [
        {"role": role, "content": said}
        for role, said in (("assistant", "fox"), ("user", "dog"), ("assistant", "fox !"))
    ]
    (ids,) = completion_ids(tokenizer, [QUESTION], [turns])
    assert tokenizer.decode(ids[:-1]) == f"fox{tokenizer.eos_token}<user>dog<bot>fox !"


def test_a_token_that_ends_a_response_inside_a_completion_does_not_end_it(tokenizer):
    stop = tokenizer("1").input_ids[0]
    (ids,) = completion_ids(tokenizer, ["a"], [" fox 1 dog"], stop_ids=[stop])
    assert tokenizer.decode(ids) == f" fox 1 dog{tokenizer.eos_token}"


def test_all_turns_of_a_completion_are_learned(tokenizer):
    tokenizer = chat(tokenizer, TEMPLATES["ends a turn otherwise"])
    turns = [{"role": role, "content": "fox"} for role in ("assistant", "user", "assistant")]
    (ids,) = completion_ids(tokenizer, [QUESTION], [turns], stop_ids=[tokenizer.convert_tokens_to_ids("<end>")])
    assert tokenizer.decode(ids) == "fox<end>\n<user>fox<end>\n<bot>fox<end>"


def test_a_chat_template_that_does_not_show_the_reply_is_refused(tokenizer):
    tokenizer = chat(tokenizer, "{% for m in messages %}{{ m.role }}{% endfor %}{{ 'bot' if add_generation_prompt }}")
    with pytest.raises(InputError, match="does not show the reply 'the quick brown fox'"):
        completion_ids(tokenizer, [QUESTION], ["the quick brown fox"])


def test_many_at_a_time_are_what_each_is_alone(any_tokenizer):
    """More than are tokenised together, among them some whose completion merges with the prompt, and chat messages."""
    prompts = ["a t", "the quick", [{"role": "user", "content": "a fox?"}], ""] * 300
    completions = ["he fox", " brown fox", "yes!", "x"] * 300
    ended = [True, False, True, True, False, True] * 200
    alone = {
        i: completion_ids(any_tokenizer, [prompts[i]], [completions[i]], [ended[i]])[0] for i in (0, 1, 2, 3, 998, 1199)
    }
    together = completion_ids(any_tokenizer, prompts, completions, ended)
    assert len(together) == 1200 and {i: together[i] for i in alone} == alone
    assert (
        together[1]
        == any_tokenizer(prompts[1] + completions[1], add_special_tokens=False).input_ids[-len(together[1]) :]
    )
    assert [prompt_ids(any_tokenizer, [prompts[i]])[0] for i in alone] == [
        prompt_ids(any_tokenizer, prompts)[i] for i in alone
    ]


def test_chat_messages_are_rendered_by_the_template_and_the_loss_is_the_replys(tokenizer):
    prompt = [{"role": "user", "content": "a fox?"}]
    for completion in ("yes!", [{"role": "assistant", "content": "yes!"}]):
        dataset = demonstration_dataset([{"prompt": prompt, "completion": completion}], tokenizer, 64, Tally())
        labels = [label for label in dataset[0]["labels"] if label != -100]
        assert tokenizer.decode(dataset[0]["input_ids"]) == "\n\nHuman: a fox?\n\nAssistant: yes!<|endoftext|>"
        assert tokenizer.decode(labels) == " yes!<|endoftext|>"


def test_a_llama_tokenizer_begins_with_bos_and_a_bert_one_with_cls(shared):
    llama = load_tokenizer(shared / "models" / "stories260K")
    assert prompt_ids(llama, ["Once"])[0][0] == llama.bos_token_id
    assert prompt_ids(llama, ["Once upon"]) == [llama("Once upon").input_ids]
    bert = load_tokenizer(shared / "tokenizers" / "bert-zh")
    assert prompt_ids(bert, ["你好"])[0][0] == bert.cls_token_id
    assert completion_ids(bert, ["你好"], ["吗"])[0][-1] == bert.eos_token_id == bert.sep_token_id
    assert len({bert.eos_token_id, bert.pad_token_id}) == 2


def test_gpt2s_own_tokenizer_gives_its_published_ids(shared):
    tokenizer = load_tokenizer(shared / "tokenizers" / "gpt2")
    assert text_ids(tokenizer, ["Hello world"]) == [[15496, 995, 50256]]
    assert tokenizer.pad_token_id not in (None, 50256)


def test_pad_and_eos_are_two_tokens_and_the_eos_is_in_the_loss(any_tokenizer):
    assert any_tokenizer.pad_token_id != any_tokenizer.eos_token_id
    dataset = demonstration_dataset([{"prompt": "a", "completion": " fox"}], any_tokenizer, 64, Tally())
    assert dataset[0]["labels"][-1] == any_tokenizer.eos_token_id


def test_a_document_longer_than_the_context_is_cut_into_pieces_that_lose_nothing(tokenizer):
    words = "the quick brown fox jumps over the lazy dog " * 9
    pieces = text_dataset([{"text": words}], tokenizer, max_length=16)["input_ids"]
    assert max(map(len, pieces)) == 16
    assert [token for piece in pieces for token in piece] == text_ids(tokenizer, [words])[0]


def test_rows_longer_than_allowed_are_dropped_and_counted(tokenizer):
    long = "the quick brown fox jumps over the lazy dog " * 9
    tally = Tally(used=2)
    assert prompt_dataset([{"prompt": long}, {"prompt": "a"}], tokenizer, 16, tally)["row"] == [1]
    assert (tally.used, tally.dropped) == (1, {"longer than 16 tokens": 1})
    rows = [{"prompt": "a", "completions": ["b", long], "ranks": [0, 1]}]
    with pytest.raises(InputError, match="no usable rows are left"):
        comparison_dataset(rows, tokenizer, 16, Tally(used=1))


# --- batches ----------------------------------------------------------------------------------------------------------


def test_padding_goes_to_the_side_that_is_asked_for():
    left, left_mask = pad([[5, 6], [7]], 1, "left")
    assert (left.tolist(), left_mask.tolist()) == ([[5, 6], [1, 7]], [[1, 1], [0, 1]])
    right, right_mask = pad([[5, 6], [7]], 1, "right")
    assert (right.tolist(), right_mask.tolist()) == ([[5, 6], [7, 1]], [[1, 1], [1, 0]])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 8), st.integers(1, 3), st.integers(0, 5))
def test_every_row_is_trained_on_once_an_epoch(lengths, batch_size, epochs, seed):
    order = batch_order(lengths, batch_size, epochs, seed)
    for epoch in range(epochs):
        assert sorted(order[epoch * len(lengths) : (epoch + 1) * len(lengths)]) == list(range(len(lengths)))


def test_batches_hold_rows_of_similar_length_and_come_in_no_order_of_length():
    lengths = torch.randint(1, 200, (4096,), generator=torch.Generator().manual_seed(0)).tolist()
    order = batch_order(lengths, 16, 1, seed=0)
    batches = [[lengths[i] for i in order[k : k + 16]] for k in range(0, len(order), 16)]
    spread = sum(max(batch) - min(batch) for batch in batches) / len(batches)
    assert spread < 20  # 175 for batches drawn at random
    means = torch.tensor([[sum(batch) / 16] for batch in batches]).squeeze()
    following = torch.corrcoef(torch.stack([means[:-1], means[1:]]))[0, 1]
    assert abs(float(following)) < 0.2


def test_ranks_that_single_precision_can_not_tell_apart_become_places():
    (row,), _ = check(
        "comparisons", {"prompt": "a", "completions": ["x", "y", "z"], "ranks": [20000001, 20000000, 20000001]}
    )
    assert row["ranks"] == [1, 0, 1]


def test_a_message_that_looks_like_a_template_is_only_words(tokenizer):
    words = "{{ 7 * 7 }}{% for i in range(9) %}x{% endfor %}"
    assert words in render(tokenizer, [{"role": "user", "content": words}])


@pytest.mark.parametrize("template", [
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ raise_exception('roles must alternate') }}",
])  # fmt: skip
def test_a_chat_template_that_refuses_or_would_run_code_is_refused(tokenizer, monkeypatch, template):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(InputError, match="chat template refuses 'user: Hi'"):
        prompt_ids(tokenizer, [[{"role": "user", "content": "Hi"}]])
