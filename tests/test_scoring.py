"""Scores from reward models and from functions of the text."""

import math

import pytest
import torch

from rlhf.errors import InputError
from rlhf.scoring import last_token_scores, load_function, score_texts
from tests.conftest import tiny_gpt2
from tests.test_rollout import sample, scorer_of

ROWS = [{"prompt": "a", "task": "x"}, {"prompt": "b", "task": "y"}]


def test_the_score_is_read_at_the_last_token_of_the_response_ended_or_not():
    policy = tiny_gpt2().eval()
    scorer, responses = scorer_of(tiny_gpt2()), sample(policy, length=6, stop_ids=tuple(range(0, 400, 3)))
    assert responses.ended.any() and len(set(responses.lengths.tolist())) > 1
    scores = last_token_scores(scorer, responses)
    for i, (ids, attention) in enumerate(zip(responses.input_ids, responses.attention_mask, strict=True)):
        alone = ids[attention.bool()][None]
        torch.testing.assert_close(scores[i], scorer(alone, torch.ones_like(alone))[0, -1], atol=1e-5, rtol=1e-5)


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


@pytest.mark.parametrize(
    "name, says", [("no.such:f", "no module no"), ("math", "no function"), ("math:nothing", "no function")]
)
def test_a_function_that_does_not_exist_is_refused(name, says):
    with pytest.raises(InputError, match=says):
        load_function(name)


def test_a_function_is_found_by_module_and_name():
    assert load_function("math:sqrt")(4) == 2
