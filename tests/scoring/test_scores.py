"""Scores from reward models and from functions of the text."""

import json
import math

import pytest
import torch

from rlhf import InputError
from rlhf.scoring import call_reward_function, reward_model_scores
from rlhf.tokens import load_tokenizer
from tests.conftest import real_llama, scorer_of
from tests.responses import sample

ROWS = [{"prompt": "a", "task": "x"}, {"prompt": "b", "task": "y"}]

# --- reward models ----------------------------------------------------------------------------------------------------


def test_a_score_is_read_at_the_last_token_of_a_finished_or_truncated_response_as_in_transformers(policy):
    scorer, responses = scorer_of(policy), sample(policy, length=6, stop_ids=tuple(range(0, 400, 3)))
    assert responses.finished.any() and len(set(responses.lengths.tolist())) > 1
    scores = reward_model_scores(scorer, responses)
    for score, ids, attention in zip(scores, responses.input_ids, responses.attention_mask, strict=True):
        expected = scorer.model(input_ids=ids[attention.bool()][None]).logits[0, 0]
        torch.testing.assert_close(score, expected, atol=1e-5, rtol=1e-5)


def test_the_reward_model_reads_sampled_tokens_and_not_their_text_tokenised_again(shared):
    """Real weights and their tokenizer: tokenising the text often gives other tokens than were sampled."""
    source = shared / "models" / "stories260K"
    tokenizer, policy = load_tokenizer(source), real_llama(source).eval()
    scorer, responses = scorer_of(policy), sample(policy, [[1]] * 8, temperature=3.0, stop_ids=[2])
    scores, different = reward_model_scores(scorer, responses), 0
    for score, ids, attention in zip(scores, responses.input_ids, responses.attention_mask, strict=True):
        sampled = ids[attention.bool()]
        retokenised = tokenizer(tokenizer.decode(sampled, skip_special_tokens=True), return_tensors="pt").input_ids
        torch.testing.assert_close(score, scorer.model(input_ids=sampled[None]).logits[0, 0], atol=1e-5, rtol=1e-5)
        different += (score - scorer.model(input_ids=retokenised).logits[0, 0]).abs() > 1e-3
    assert different > 0


# --- reward functions -------------------------------------------------------------------------------------------------


def test_a_function_gets_only_the_columns_that_it_names():
    def function(completions, task):
        return [len(c) + len(t) for c, t in zip(completions, task, strict=True)]

    assert call_reward_function(function, ROWS, ["xx", "y"], [True, False]) == [3.0, 2.0]


def test_a_function_with_keyword_arguments_gets_all_columns_as_in_trl():
    received = {}

    def function(prompts, completions, **kwargs):
        received.update(kwargs)
        return [0, 0]

    call_reward_function(function, ROWS, ["", ""], [True, False])
    assert received["task"] == ["x", "y"] and received["ended"] == [True, False]


def test_none_becomes_nan():
    assert math.isnan(call_reward_function(lambda completions: [None, 1], ROWS, ["", ""], [True, True])[0])


def test_a_wrong_number_of_scores_is_refused():
    with pytest.raises(InputError, match="1 scores for 2 completions"):
        call_reward_function(lambda completions: [1.0], ROWS, ["", ""], [True, True])


def test_a_required_argument_without_a_column_is_named_with_the_available_columns():
    with pytest.raises(InputError, match="requires answer; available: prompt, task, .*completion_ids"):
        call_reward_function(lambda completions, answer: [0, 0], ROWS, ["", ""], [True, True], [[1], [2]])
    scores = call_reward_function(
        lambda completion_ids, answer=3: [answer, 0], ROWS, ["", ""], [True, True], [[1], [2]]
    )
    assert scores == [3, 0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda completions: json.loads("{"), r"raised JSONDecodeError.*test_scores.py:\d+\)"),
        (lambda completions: 1 / 0, r"raised ZeroDivisionError: division by zero \(.*test_scores.py:\d+\)"),
        (lambda completions: 1.0, "returned 1.0; it must return a number for each"),
        (lambda completions: None, "returned None"),
        (lambda completions: ["good", "bad"], "returned .'good', 'bad'."),
        (lambda completions: [[1.0], [2.0]], "returned ..1.0., .2.0.."),
    ],
)
def test_a_function_that_fails_or_does_not_return_numbers_is_named_in_the_error(function, message):
    with pytest.raises(InputError, match=f"<lambda> {message}"):
        call_reward_function(function, ROWS, ["", ""], [True, True])
