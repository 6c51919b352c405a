"""PPO resumes from its saved state to the same bits."""

import pytest
import torch

from tests.trainers import make_trainer, weights


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema_decay": 0.5, "kl_target": 1.0},
        {"share_trunk": True, "micro_batch_size": 3},
        {"advantage_estimator": "rloo", "num_generations": 2},
        {"lora_r": 4, "ema_decay": 0.5},
        {"lora_r": 4, "share_trunk": True},
        {"lora_r": 4, "advantage_estimator": "rloo", "num_generations": 2},
    ],
)
def test_ppo_resumes_to_the_same_bits(tokenizer, tmp_path, options):
    whole = make_trainer(tokenizer, total_episodes=8 * 4, dropout=0.1, **options)
    expected = [step.metrics for step in whole.train()]

    first = make_trainer(tokenizer, total_episodes=8 * 4, dropout=0.1, **options)
    steps = first.train()
    metrics = [next(steps).metrics, next(steps).metrics]
    first.save_state(tmp_path)
    next(steps)  # a step after the checkpoint is lost, and done again

    second = make_trainer(tokenizer, total_episodes=8 * 4, dropout=0.1, **options)
    second.load_state(tmp_path)
    metrics += [step.metrics for step in second.train()]
    assert metrics == expected
    for name, model in whole.models().items():
        assert torch.equal(weights(model), weights(second.models()[name])), name
    assert (second.kl_coef, second.steps_done) == (whole.kl_coef, 4)
