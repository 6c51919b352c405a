"""Scores from reward models and from functions of the text."""

import json
import math

import pytest
import torch

from rlhf.errors import InputError
from rlhf.models import load_tokenizer
from rlhf.scoring import last_token_scores, load_function, score_texts
from tests.conftest import real_llama, scorer_of
from tests.test_rollout import sample

ROWS = [{"prompt": "a", "task": "x"}, {"prompt": "b", "task": "y"}]


def test_the_score_is_that_of_transformers_at_the_last_token_of_the_response_ended_or_not(policy):
    scorer, responses = scorer_of(policy), sample(policy, length=6, stop_ids=tuple(range(0, 400, 3)))
    assert responses.ended.any() and len(set(responses.lengths.tolist())) > 1
    scores = last_token_scores(scorer, responses)
    for score, ids, attention in zip(scores, responses.input_ids, responses.attention_mask, strict=True):
        own = scorer.model(input_ids=ids[attention.bool()][None]).logits[0, 0]
        torch.testing.assert_close(score, own, atol=1e-5, rtol=1e-5)


def test_the_reward_model_reads_the_tokens_that_were_sampled_not_those_that_their_text_would_have(shared):
    """Real weights and their own tokenizer: sampled tokens are often not those that their text would be cut into."""
    source = shared / "models" / "stories260K"
    tokenizer, policy = load_tokenizer(source), real_llama(source).eval()
    scorer, responses = scorer_of(policy), sample(policy, [[1]] * 8, temperature=3.0, stop_ids=[2])
    scores, others = last_token_scores(scorer, responses), 0
    for score, ids, attention in zip(scores, responses.input_ids, responses.attention_mask, strict=True):
        sampled = ids[attention.bool()]
        again = tokenizer(tokenizer.decode(sampled, skip_special_tokens=True), return_tensors="pt").input_ids
        torch.testing.assert_close(score, scorer.model(input_ids=sampled[None]).logits[0, 0], atol=1e-5, rtol=1e-5)
        others += (score - scorer.model(input_ids=again).logits[0, 0]).abs() > 1e-3
    assert others > 0


def test_a_function_gets_the_columns_it_names_and_no_others():
    def function(completions, task):
        return [len(c) + len(t) for c, t in zip(completions, task, strict=True)]

    assert score_texts(function, ROWS, ["xx", "y"], [True, False]) == [3.0, 2.0]


def test_a_function_that_takes_keywords_gets_everything_as_trls_do():
    seen = {}

    def function(prompts, completions, **kwargs):
        seen.update(kwargs)
        return [0, 0]

    score_texts(function, ROWS, ["", ""], [True, False])
    assert seen["task"] == ["x", "y"] and seen["ended"] == [True, False]


def test_none_becomes_nan():
    assert math.isnan(score_texts(lambda completions: [None, 1], ROWS, ["", ""], [True, True])[0])


def test_a_wrong_number_of_scores_is_refused():
    with pytest.raises(InputError, match="1 scores for 2 completions"):
        score_texts(lambda completions: [1.0], ROWS, ["", ""], [True, True])


def test_what_a_function_wants_and_can_not_have_is_named_with_what_it_can():
    with pytest.raises(InputError, match="wants answer; what it can be given is prompt, task, .*completion_ids"):
        score_texts(lambda completions, answer: [0, 0], ROWS, ["", ""], [True, True], [[1], [2]])
    assert score_texts(lambda completion_ids, answer=3: [answer, 0], ROWS, ["", ""], [True, True], [[1], [2]]) == [3, 0]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda completions: json.loads("{"), r"raised JSONDecodeError.*test_scoring.py:\d+\)"),
        (lambda completions: 1 / 0, r"raised ZeroDivisionError: division by zero \(.*test_scoring.py:\d+\)"),
        (lambda completions: 1.0, "returned 1.0; it must return a number for each"),
        (lambda completions: None, "returned None"),
        (lambda completions: ["good", "bad"], "returned .'good', 'bad'."),
        (lambda completions: [[1.0], [2.0]], "returned ..1.0., .2.0.."),
    ],
)
def test_a_function_that_fails_or_returns_no_numbers_is_named(function, says):
    with pytest.raises(InputError, match=f"<lambda> {says}"):
        score_texts(function, ROWS, ["", ""], [True, True])


@pytest.mark.parametrize(
    "name, says",
    [
        ("./my_module.py:f", "is no name of a module"),
        ("no.such:f", "no module no"),
        ("math", "no function"),
        ("math:nothing", "no function"),
    ],
)
def test_a_function_that_does_not_exist_is_refused(name, says):
    with pytest.raises(InputError, match=says):
        load_function(name)


def test_a_function_is_found_by_module_and_name():
    assert load_function("math:sqrt")(4) == 2
