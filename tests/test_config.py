"""Options of PPO that contradict each other are refused."""

import pytest

from rlhf import InputError
from rlhf.config import PPOConfig


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"batch_size": 6, "num_mini_batches": 4},
            "batch_size 6 can't be split .*must be a multiple of 4 minibatches",
        ),
        ({"total_episodes": 4}, "less than one batch"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"num_ppo_epochs": 0}, "num_ppo_epochs is 0"),
        ({"num_generations": 0}, "num_generations is 0"),
        ({"num_generations": 3}, "multiple of 2 minibatches x 3 responses to each prompt"),
        ({"advantage_estimator": "grpo"}, "advantage_estimator is 'grpo'; it must be gae or rloo"),
        ({"advantage_estimator": "rloo"}, "num_generations must be at least 2"),
        ({"advantage_estimator": "rloo", "num_generations": 2, "share_trunk": True}, "uses no values"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        PPOConfig(**({"batch_size": 8, "total_episodes": 16} | options))


def test_pretraining_text_that_processes_can_not_share_equally_is_refused():
    config = PPOConfig(batch_size=8, total_episodes=16, num_mini_batches=2, ptx_batch_size=3)
    config.check_split(1)
    with pytest.raises(InputError, match="ptx_batch_size 3 can't be shared by 2 processes"):
        config.check_split(2)
    PPOConfig(**{**vars(config), "ptx_coef": 0.0}).check_split(2)
