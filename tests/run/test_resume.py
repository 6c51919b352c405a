"""PPO resumes from its saved state to the same bits."""

import pytest
import torch

from tests.trainers import REINFORCE, make_trainer, weights


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema_decay": 0.5, "kl_target": 1.0},
        {"share_trunk": True, "micro_batch_size": 3},
        {"advantage_estimator": "rloo", "num_generations": 2},
        REINFORCE,
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
    assert (second.kl_coef, second.baseline, second.steps_done) == (whole.kl_coef, whole.baseline, 4)


def test_a_run_resumed_without_the_baseline_of_reinforce_would_differ(tokenizer, tmp_path):
    """So the test above would fail if checkpoints lacked it."""
    options = {"total_episodes": 8 * 3, **REINFORCE}
    trainers = [make_trainer(tokenizer, **options) for _ in range(3)]
    next(trainers[0].train())
    trainers[0].save_state(tmp_path)
    for trainer in trainers[1:]:
        trainer.load_state(tmp_path)
    assert trainers[1].baseline is not None
    trainers[2].baseline = None
    one, other = (list(trainer.train()) and weights(trainer.policy) for trainer in trainers[1:])
    assert not torch.equal(one, other)
