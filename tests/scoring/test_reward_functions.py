"""Reward functions in PPO: one call per rollout, weighted sums, what is logged, and the texts that functions see."""

from functools import partial

import pytest
import torch

from rlhf import InputError
from rlhf.rollout import Responses
from rlhf.scoring import RewardFunctions, reward_model_scores
from tests.conftest import scorer_of, tiny_gpt2
from tests.trainers import PROMPTS, make_trainer

ROWS = [{"prompt": f"prompt {i}"} for i in range(len(PROMPTS))]
A, B = (lambda completions: [1.0, 2.0, None, None]), (lambda completions: [10.0, None, 30.0, None])


def responses_of(*texts: list[int], finished: list[bool]) -> Responses:
    """Responses with the given token ids, padded with 1."""
    width = max(map(len, texts))
    ids = torch.tensor([text + [1] * (width - len(text)) for text in texts])
    mask = torch.tensor([[i < len(text) for i in range(width)] for text in texts])
    zeros = torch.zeros(mask.shape)
    return Responses(ids, mask.long(), mask, torch.tensor(finished), torch.arange(len(texts)), zeros, zeros, zeros)


def scored(tokenizer, functions, model_scores=None, **options) -> tuple[torch.Tensor, RewardFunctions]:
    """The scores of four responses, and the object that has computed them."""
    functions = RewardFunctions(functions, tokenizer, ROWS, **options)
    return functions(responses_of([5], [6], [7], [8], finished=[True] * 4), model_scores), functions


# --- sums -------------------------------------------------------------------------------------------------------------


def test_the_score_is_the_weighted_sum_of_the_functions_that_apply(tokenizer):
    scores, functions = scored(tokenizer, {"a": A, "b": B}, weights=[2.0, 0.5])
    torch.testing.assert_close(scores, torch.tensor([7.0, 4.0, 15.0, torch.nan]), equal_nan=True)
    assert functions.logged["a"].tolist()[:2] == [1.0, 2.0] and functions.logged["b"].tolist()[2] == 30.0


def test_beside_a_reward_model_its_weighted_score_is_added(tokenizer):
    model_scores = torch.tensor([1.0, 1.0, 1.0, -4.0])
    scores, functions = scored(tokenizer, {"a": A, "b": B}, model_scores, weights=[2.0, 0.5], model_weight=3.0)
    assert scores.tolist() == [10.0, 7.0, 18.0, -12.0]
    assert functions.logged["rewards/reward_model"] is model_scores


def test_another_number_of_weights_than_of_functions_is_refused(tokenizer):
    with pytest.raises(InputError, match="3 reward_weights for 2 reward functions"):
        scored(tokenizer, {"a": A, "b": B}, weights=[1.0, 2.0, 3.0])


def test_criteria_are_logged_and_their_sum_is_the_score(tokenizer):
    criteria = {"right": [1, 0, 1, 0], "polite": [0.5, 0.5, None, 0]}
    scores, functions = scored(tokenizer, {"rewards/f": lambda completions: criteria})
    assert scores.tolist() == [1.5, 0.5, 1.0, 0.0]
    assert list(functions.logged) == ["rewards/f", "rewards/f/right", "rewards/f/polite"]


def test_log_extra_needs_a_value_for_each_completion(tokenizer):
    def function(completions, log_extra):
        log_extra("found", ["1"])
        return [0, 0, 0, 0]

    with pytest.raises(InputError, match="log_extra: found has 1 values for 4 completions"):
        scored(tokenizer, {"f": function})


# --- texts ------------------------------------------------------------------------------------------------------------


def test_special_tokens_are_kept_on_request_and_the_stop_token_is_cut(tokenizer):
    """Token 0 is <|endoftext|>, which ends the first response and lies within the second, truncated one."""
    word = tokenizer.convert_tokens_to_ids("a")
    assert tokenizer.decode([0]) == "<|endoftext|>"
    responses, seen = responses_of([word, 0], [0, word], finished=[True, False]), []

    def function(completions):
        seen.append(completions)
        return [0, 0]

    RewardFunctions({"f": function}, tokenizer, ROWS)(responses)
    RewardFunctions({"f": function}, tokenizer, ROWS, keep_special_tokens=True)(responses)
    assert seen == [["a", "a"], ["a", "<|endoftext|>a"]]


# --- in the loop ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_a_function_is_called_once_a_step_with_all_responses_to_a_prompt_side_by_side(tokenizer, micro_batch_size):
    calls = []

    def function(prompts, trainer_state):
        calls.append((prompts, trainer_state.global_step, trainer_state.max_steps))
        return [0.0] * len(prompts)

    options = {"num_generations": 4, "num_ppo_epochs": 2, "micro_batch_size": micro_batch_size}
    functions = RewardFunctions({"rewards/f": function}, tokenizer, ROWS)
    list(make_trainer(tokenizer, reward=None, functions=functions, **options).train())
    assert [(len(prompts), *state) for prompts, *state in calls] == [(8, 0, 4), (8, 2, 4)]
    assert all(len(set(prompts[i : i + 4])) == 1 for prompts, *_ in calls for i in (0, 4))


def test_the_score_beside_a_reward_model_and_every_part_of_it_are_logged(tokenizer):
    def length(completion_ids, log_metric):
        log_metric("longest", max(map(len, completion_ids)))
        log_metric("unknown", float("nan"))
        return [len(ids) for ids in completion_ids]

    model = partial(reward_model_scores, scorer_of(tiny_gpt2().eval()))
    functions = RewardFunctions({"rewards/length": length}, tokenizer, ROWS, weights=[0.5], model_weight=2.0)
    trainer = make_trainer(tokenizer, reward=model, functions=functions, micro_batch_size=3)
    step = next(trainer.train())
    metrics, rollout = step.metrics, step.rollout
    with torch.no_grad():
        model_scores = model(rollout)
    expected = 2 * model_scores + 0.5 * rollout.lengths
    torch.testing.assert_close(rollout.scores, expected, atol=1e-5, rtol=1e-5)
    assert metrics["rewards/reward_model"] == pytest.approx(float(model_scores.mean()), abs=1e-5)
    assert metrics["rewards/length"] == pytest.approx(metrics["length"])
    assert metrics["longest"] == float(rollout.lengths.max()) and "unknown" not in metrics
    assert "padding changes no score" in trainer.sanity_report


@pytest.mark.parametrize("name", ["score", "learning_rate", "step"])
def test_a_function_can_not_log_under_the_name_of_a_metric_of_ppo(tokenizer, name):
    def function(completions, log_metric):
        log_metric(name, 1.0)
        return [0.0] * len(completions)

    functions = RewardFunctions({"rewards/f": function}, tokenizer, ROWS)
    with pytest.raises(InputError, match=f"log_metric: {name} is a metric of PPO"):
        list(make_trainer(tokenizer, reward=None, functions=functions).train())


def test_criteria_of_gold_are_logged_and_change_nothing(tokenizer):
    def gold(completions, log_metric):
        log_metric("score", 1.0)  # only reward functions log metrics
        return {"right": [1.0] * len(completions), "polite": [0.5] * len(completions)}

    trainer, plain = make_trainer(tokenizer), make_trainer(tokenizer)
    trainer.gold = RewardFunctions({"gold": gold}, tokenizer, ROWS)
    with_gold, without = (next(t.train()).metrics for t in (trainer, plain))
    assert {name: with_gold.pop(name) for name in ("gold", "gold/right", "gold/polite")} == {
        "gold": 1.5, "gold/right": 1.0, "gold/polite": 0.5
    }  # fmt: skip
    assert with_gold == without


def test_a_trainer_without_any_reward_is_refused(tokenizer):
    with pytest.raises(InputError, match="there is no reward"):
        make_trainer(tokenizer, reward=None)
