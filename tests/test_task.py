"""GPT-1's inputs, heads and losses: figure 1 and equations 3 to 5 of Radford et al. (2018), worked out by hand."""

import math

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from rlhf import InputError
from rlhf.rows import Tally
from rlhf.task import (
    Special,
    TaskCollator,
    add_special_tokens,
    joint_loss,
    language_loss,
    layout,
    new_task_model,
    predict,
    save_task_model,
    task_dataset,
    task_logits,
    task_loss,
    task_outputs,
)
from rlhf.tokens import prepare_tokenizer
from tests.conftest import tiny_gpt2, tiny_llama

S, D, E = 100, 101, 102  # start, delimiter, extract
SPECIAL = Special(S, D, E)


@pytest.fixture
def source(tokenizer, tmp_path):
    """A function that saves a small language model with its tokenizer; returns the folder and a tokenizer to change."""

    def save(make=tiny_gpt2):
        make().save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        copy = type(tokenizer).from_pretrained(tmp_path / "model")
        return tmp_path / "model", prepare_tokenizer(copy)

    return save


def task_of(source, form, rows, labels=2, make=tiny_gpt2, **how):
    """A task model, its tokenizer, and the rows as a dataset; in fp64, for exact comparisons."""
    folder, tokenizer = source(make)
    torch.manual_seed(0)
    model = new_task_model(folder, tokenizer, labels, **how).eval()
    nn.init.normal_(model.score.weight)
    return model, tokenizer, task_dataset(rows, form, tokenizer, 64, Tally(used=len(rows)))


def batch_of(dataset, tokenizer):
    collate = TaskCollator(tokenizer.pad_token_id, add_special_tokens(tokenizer))
    return collate(list(dataset))


# --- figure 1 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "texts", "expected"),
    [
        ("classification", [[1, 2]], [[S, 1, 2, E]]),
        ("entailment", [[1, 2], [3]], [[S, 1, 2, D, 3, E]]),
        ("similarity", [[1, 2], [3]], [[S, 1, 2, D, 3, E], [S, 3, D, 1, 2, E]]),
        ("choice", [[1, 2], [3], [4, 5], [6]], [[S, 1, 2, D, 3, E], [S, 1, 2, D, 4, 5, E], [S, 1, 2, D, 6, E]]),
    ],
)
def test_each_form_is_laid_out_as_in_figure_1(form, texts, expected):
    assert layout(form, texts, SPECIAL) == expected


def test_a_special_token_that_a_text_contains_is_text(source):
    _, tokenizer = source()
    special = add_special_tokens(tokenizer)
    tally = Tally(used=1)
    (row,) = task_dataset([{"text": "a <extract> fox", "label": 0}], "classification", tokenizer, 64, tally)
    (ids,) = row["sequences"]
    assert [i for i in ids if i in special.ids()] == [special.start, special.extract]
    assert tokenizer.decode(ids[1:-1]) == "a <extract> fox"
    assert tally.as_text == 1


def test_a_row_longer_than_the_context_is_dropped_and_counted(source):
    _, tokenizer = source()
    rows = [{"text": "a fox", "label": 0}, {"text": "a fox " * 40, "label": 1}]
    tally = Tally(used=2)
    dataset = task_dataset(rows, "classification", tokenizer, 64, tally)
    assert list(dataset["row"]) == [0] and tally.dropped == {"longer than 64 tokens": 1}
    with pytest.raises(InputError, match="no usable rows are left"):
        task_dataset(rows[1:], "classification", tokenizer, 64, Tally(used=1))


def test_l1_learns_the_tokens_of_texts_and_no_others():
    batch = TaskCollator(0, SPECIAL)([{"sequences": [[S, 1, 2, D, 3, E], [S, 3, E]], "label": 1}])
    assert batch["text"].tolist() == [[False, True, True, False, True, False], [False, True] + [False] * 4]
    assert batch["attention_mask"].sum(dim=1).tolist() == [6, 3]
    assert batch["counts"].tolist() == [2] and batch["labels"].tolist() == [1]


# --- the heads --------------------------------------------------------------------------------------------------------


def head(rows):
    """A linear head with these weights (Y, W)."""
    score = nn.Linear(len(rows[0]), len(rows), bias=False)
    score.weight.data = torch.tensor(rows)
    return score


def test_the_states_of_both_orders_are_added_before_the_head():
    states = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0], [0.0, 1.0]])  # two rows
    logits = task_logits("similarity", head([[1.0, 10.0], [2.0, 0.0]]), states, torch.tensor([2, 2]))
    assert logits.tolist() == [[64.0, 8.0], [15.0, 10.0]]  # (4, 6) and (5, 1)


def test_each_choice_has_one_score_and_a_missing_one_has_no_probability():
    states = torch.tensor([[1.0], [2.0], [3.0], [5.0], [4.0]])
    logits = task_logits("choice", head([[2.0]]), states, torch.tensor([3, 2]))
    assert logits.tolist() == [[2.0, 4.0, 6.0], [10.0, 8.0, -math.inf]]
    assert logits.softmax(dim=1)[1, 2] == 0
    torch.testing.assert_close(logits.softmax(dim=1).sum(dim=1), torch.ones(2))


def test_similarity_does_not_depend_on_the_order_of_the_texts(source):
    one = {"text1": "a quick fox", "text2": "the dog", "label": 0}
    swapped = {"text1": one["text2"], "text2": one["text1"], "label": 0}
    model, tokenizer, dataset = task_of(source, "similarity", [one, swapped])
    logits, _ = task_outputs(model, "similarity", batch_of(dataset, tokenizer), False)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)
    other = {**one, "text2": "the fox", "label": 0}
    others = batch_of(task_dataset([other], "similarity", tokenizer, 64, Tally(used=1)), tokenizer)
    assert (task_outputs(model, "similarity", others, False)[0] - logits[0]).abs().max() > 1e-3


def test_the_probability_of_a_choice_does_not_depend_on_its_place(source):
    choices = ["a fox", "the lazy dog jumps", "no"]
    order = [2, 0, 1]
    rows = [
        {"context": "who jumps ?", "choices": choices, "label": 0},
        {"context": "who jumps ?", "choices": [choices[i] for i in order], "label": 1},
    ]
    model, tokenizer, dataset = task_of(source, "choice", rows, labels=1)
    first, second = predict(model, "choice", dataset, tokenizer)
    assert [first[i] for i in order] == pytest.approx(second, abs=1e-5)
    assert sum(first) == pytest.approx(1) and max(first) - min(first) > 1e-3


def test_the_logits_are_those_of_each_sequence_alone(source):
    rows = [
        {"context": "a quick fox jumps", "choices": ["yes", "the dog"], "label": 0},
        {"context": "no", "choices": ["a", "1 2 3", "4 5"], "label": 2},
    ]
    for make in (tiny_gpt2, tiny_llama):
        model, tokenizer, dataset = task_of(source, "choice", rows, labels=1, make=make)
        logits, _ = task_outputs(model, "choice", batch_of(dataset, tokenizer), True)
        for row, own in zip(dataset, logits, strict=True):
            states = [model.base_model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in row["sequences"]]
            expected = torch.stack([model.score(state)[0] for state in states])
            torch.testing.assert_close(own[: len(states)], expected, atol=1e-4, rtol=1e-4)


# --- L1, L2 and L3 ----------------------------------------------------------------------------------------------------


def test_l2_is_the_mean_log_probability_of_the_labels():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])  # probabilities 1/4, 3/4 and 1/2, 1/2
    assert task_loss(logits, torch.tensor([1, 0])).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_l1_is_the_mean_over_sequences_of_their_mean_log_probability():
    text = torch.tensor([[False, True, True], [False, True, False]])
    assert language_loss(torch.tensor([-1.0, -3.0, -5.0]), text).item() == pytest.approx((2 + 5) / 2)


def test_l3_is_l2_plus_lambda_l1(source):
    row = {"premise": "a quick fox", "hypothesis": "the dog", "label": 1}
    model, tokenizer, dataset = task_of(source, "entailment", [row])
    (ids,) = dataset[0]["sequences"]
    with torch.no_grad():
        output = model(torch.tensor([ids]), output_hidden_states=True)
    probabilities = model.score(output.hidden_states[-1][0, -1]).softmax(dim=0).tolist()
    expected_task = -math.log(probabilities[1])
    # the embedding of the tests has more rows than the tokenizer has tokens, and these have probability 0
    logprobs = output.logits[0, :, : len(tokenizer)].log_softmax(dim=-1)
    special = add_special_tokens(tokenizer).ids()
    own = [-logprobs[t - 1, token].item() for t, token in enumerate(ids) if token not in special]
    expected = expected_task + 0.5 * sum(own) / len(own)
    logits, language = task_outputs(model, "entailment", batch_of(dataset, tokenizer), True)
    loss = joint_loss(task_loss(logits, torch.tensor([1])), language, 0.5)
    assert loss.item() == pytest.approx(expected, abs=1e-4)


# --- what is transferred ----------------------------------------------------------------------------------------------


def same(model, other):
    """The names of parameters that are equal in both, without the head."""
    own = dict(other.named_parameters())
    return {n for n, p in model.named_parameters() if n in own and p.shape == own[n].shape and torch.equal(p, own[n])}


def test_only_the_first_layers_and_the_embeddings_are_transferred(source):
    folder, tokenizer = source()
    add_special_tokens(tokenizer)
    whole = new_task_model(folder, tokenizer, 2)
    one = new_task_model(folder, tokenizer, 2, layers=1)
    equal = {name for name in same(one, whole) if name.endswith("weight") and "ln" not in name}
    assert {name for name in equal if ".h." in name} == {
        n for n in dict(whole.named_parameters()) if ".h.0." in n
    } & equal
    assert "transformer.wpe.weight" in equal and not any(".h.1." in name for name in equal)
    count = min(add_special_tokens(tokenizer).ids())
    embeddings = [m.get_input_embeddings().weight[:count] for m in (one, whole, tiny_gpt2())]
    assert torch.equal(embeddings[0], embeddings[1]) and torch.equal(embeddings[1], embeddings[2])
    scratch = new_task_model(folder, tokenizer, 2, scratch=True)
    assert not any(name.endswith("weight") and "ln" not in name for name in same(scratch, whole))


def test_all_layers_are_the_whole_model(source):
    folder, tokenizer = source(tiny_llama)
    torch.manual_seed(0)
    whole = new_task_model(folder, tokenizer, 2)
    torch.manual_seed(0)
    two = new_task_model(folder, tokenizer, 2, layers=2)
    assert same(two, whole) == set(dict(whole.named_parameters()))
    with pytest.raises(InputError, match="layers is 3, and the model has 2"):
        new_task_model(folder, tokenizer, 2, layers=3)


# --- saved models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_transformers_loads_a_classifier_that_gives_the_same_logits(source, tmp_path, make):
    rows = [
        {"premise": "a quick fox", "hypothesis": "the dog", "label": 1},
        {"premise": "no", "hypothesis": "1 2 3", "label": 0},
    ]
    model, tokenizer, dataset = task_of(source, "entailment", rows, labels=3, make=make)
    save_task_model(model, tmp_path / "saved", "entailment", ["no", "unknown", "yes"])
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    assert loaded.config.id2label == {0: "no", 1: "unknown", 2: "yes"} and loaded.config.task_form == "entailment"
    batch = batch_of(dataset, tokenizer)
    expected, _ = task_outputs(model, "entailment", batch, False)
    logits = loaded(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_the_logits_of_similarity_are_the_sum_of_the_saved_classifiers_for_both_orders(source, tmp_path):
    model, tokenizer, dataset = task_of(source, "similarity", [{"text1": "a fox", "text2": "the dog", "label": 0}])
    save_task_model(model, tmp_path / "saved", "similarity", ["different", "same"])
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    batch = batch_of(dataset, tokenizer)
    logits = loaded(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected, _ = task_outputs(model, "similarity", batch, False)
    torch.testing.assert_close(logits.sum(dim=0, keepdim=True), expected, atol=1e-4, rtol=1e-4)
