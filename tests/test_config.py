"""Options of PPO that contradict each other are refused."""

import math
from dataclasses import fields
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf import InputError, ppo
from rlhf.config import PPOConfig


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"batch_size": 6, "num_mini_batches": 4},
            "batch_size 6 can't be split .*must be a multiple of 4 minibatches",
        ),
        ({"total_episodes": 4}, "less than one batch"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be from 0.01 to 100"),
        ({"num_ppo_epochs": 0}, "num_ppo_epochs is 0"),
        ({"num_generations": 0}, "num_generations is 0"),
        ({"kl_coef": -1.0}, "kl_coef is -1.0; it must be at least 0"),
        ({"kl_coef": 10**400}, "a number of more than 300 digits"),
        ({"kl_coef": math.inf}, "kl_coef is inf; it must be a finite number, at least 0"),
        ({"kl_coef": None}, "kl_coef is None; it must be a number, at least 0"),
        ({"max_kl": -1}, "max_kl is -1; it must be above 0 or none"),
        ({"response_length": 8.0}, "response_length is 8.0; it must be a whole number, from 1 to 1,000,000"),
        ({"response_length": True}, "response_length is True; it must be a whole number"),
        ({"bf16": 1}, "bf16 is 1; it must be true or false"),
        ({"lr_scheduler_type": 3}, "lr_scheduler_type is 3; it must be a text"),
        ({"num_generations": 3}, "multiple of 2 minibatches x 3 responses to each prompt"),
        ({"advantage_estimator": "remax"}, "is 'remax'; it must be gae, rloo, grpo, .* or "),
        ({"advantage_estimator": "GAE"}, 'it must be gae, rloo, .*, did you mean "gae"\\?'),
        *(
            ({"advantage_estimator": name}, f"{name} compares .*num_generations must be at least 2")
            for name in ("rloo", "grpo", "dr_grpo")
        ),
        ({"advantage_estimator": "reinforce", "share_trunk": True}, "reinforce uses no values"),
        ({"policy_loss": "grpo"}, "policy_loss is 'grpo'; it must be ppo, gspo or cispo"),
        ({"loss_aggregation": "token"}, 'it must be tokens, responses, constant or none, did you mean "tokens"'),
        ({"loss_aggregation": "none"}, "loss_aggregation is 'none'; it must be"),
        ({"cliprange_high": 0.0}, "cliprange_high is 0.0; it must be above 0"),
        ({"advantage_estimator": "rloo", "num_generations": 2, "share_trunk": True}, "uses no values"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        PPOConfig(**({"batch_size": 8, "total_episodes": 16} | options))


@pytest.mark.parametrize(
    "estimator, loss, whitened, aggregation",
    [
        ("gae", "ppo", True, "tokens"),
        ("rloo", "ppo", True, "tokens"),
        ("reinforce", "ppo", False, "tokens"),
        ("grpo", "ppo", False, "responses"),
        ("dr_grpo", "ppo", False, "constant"),
        ("gae", "gspo", True, "responses"),
        ("dr_grpo", "gspo", False, "responses"),
        ("grpo", "cispo", False, "tokens"),
    ],
)
def test_whitening_and_aggregation_are_those_of_the_papers_unless_they_are_set(estimator, loss, whitened, aggregation):
    options = {"batch_size": 8, "total_episodes": 16, "num_generations": 2}
    options |= {"advantage_estimator": estimator, "policy_loss": loss}
    config = PPOConfig(**options)
    assert (config.whitens_advantages, config.aggregation) == (whitened, aggregation)
    for whitened, aggregation in ((True, "constant"), (False, "tokens")):
        config = PPOConfig(whiten_advantages=whitened, loss_aggregation=aggregation, **options)
        assert (config.whitens_advantages, config.aggregation) == (whitened, aggregation)


@pytest.mark.parametrize("cliprange_high, expected", [(None, (0.1, 0.1)), (0.3, (0.1, 0.3))])
def test_the_upper_clip_range_is_the_lower_one_unless_it_is_set(cliprange_high, expected):
    assert PPOConfig(cliprange=0.1, cliprange_high=cliprange_high).clip_range == expected


def test_every_name_of_an_estimator_or_a_loss_has_its_function():
    hints = get_type_hints(PPOConfig)
    assert set(get_args(hints["advantage_estimator"])) == {"gae", "reinforce", *ppo.GROUP_ESTIMATORS}
    assert set(get_args(hints["policy_loss"])) == set(ppo.LOSSES)


def test_reinforce_needs_only_one_response_to_a_prompt():
    assert not PPOConfig(advantage_estimator="reinforce", num_generations=1).has_value_model


def test_minibatches_with_fewer_prompts_than_processes_are_refused():
    config = PPOConfig(batch_size=8, total_episodes=16, num_mini_batches=2, ptx_batch_size=3)
    config.check_split(4)
    with pytest.raises(InputError, match="fewer prompts than there are processes, 5"):
        config.check_split(5)


numbers = st.integers() | st.floats() | st.sampled_from([0, 1, 2, 0.5, 1.0, 10**400]) | st.none() | st.booleans()


@given(st.dictionaries(st.sampled_from([field.name for field in fields(PPOConfig)]), numbers | st.text(max_size=5)))
def test_a_config_is_refused_or_every_number_has_a_meaning(options):
    try:
        config = PPOConfig(**options)
    except InputError as error:
        assert any(name in str(error) for name in options)
        return
    assert config.learning_rate >= 0 and config.kl_coef >= 0 and config.ptx_coef >= 0 and config.vf_coef >= 0
    assert 0 <= config.gamma <= 1 and 0 <= config.lam <= 1
    assert 0 <= config.adam_beta1 < 1 and 0 <= config.adam_beta2 < 1 and config.adam_epsilon > 0
    assert config.cliprange > 0 and config.cliprange_value > 0 and config.max_grad_norm > 0
    assert config.temperature > 0 and config.response_length >= 1 and 0 <= config.seed < 2**32
    assert config.ema_decay is None or 0 <= config.ema_decay < 1
    assert config.steps >= 1 and config.updates_per_step >= 1 and config.ptx_batch_size >= 1
    for name in ("batch_size", "num_mini_batches", "lr_warmup_steps", "value_warmup_steps"):
        assert type(getattr(config, name)) is int and getattr(config, name) >= 0
    numbers = [value for value in vars(config).values() if isinstance(value, int | float)]
    assert all(map(math.isfinite, numbers))
