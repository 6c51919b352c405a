"""mask_truncated leaves truncated responses out of the losses."""

from dataclasses import replace

import pytest
import torch

from rlhf.run.metrics import Meter
from tests.trainers import OTHERS, RLOO, even_tokens, make_trainer, weights

STOPS = tuple(range(0, 400, 12))  # some of the eight responses of six tokens end, and some do not


def trained(tokenizer, reward, stops=STOPS, **options):
    """The first step, and the weights of policy and value model after it."""
    trainer = make_trainer(tokenizer, reward=reward, **options)
    trainer.stop_ids = list(stops)
    step = next(trainer.train())
    value = [] if trainer.value_model is None else [weights(trainer.value_model)]
    return step, torch.cat([weights(trainer.policy), *value])


def worse_if_truncated(responses):
    """The usual reward, less 100 for a truncated response."""
    return even_tokens(responses) - 100.0 * ~responses.finished


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 1}, {"share_trunk": True}], ids=str)
def test_the_score_of_a_truncated_response_changes_no_weight(tokenizer, options):
    options = {"mask_truncated": True, "num_ppo_epochs": 2, **options}
    (step, one), (_, other) = (trained(tokenizer, reward, **options) for reward in (even_tokens, worse_if_truncated))
    assert 0 < int(step.rollout.finished.sum()) < 8
    assert torch.equal(one, other)


@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_with_every_estimator_and_loss_a_truncated_response_has_no_gradient_of_its_own(tokenizer, options):
    """The loss of the policy has the same gradient if the tokens of truncated responses have other advantages."""
    trainer = make_trainer(tokenizer, mask_truncated=True, ptx_coef=0.0, num_ppo_epochs=1, **options)
    trainer.stop_ids = list(STOPS)
    rollout = trainer.collect(0)
    experience = trainer.experience(rollout, trainer.rewards(rollout))
    assert 0 < int(rollout.finished.sum()) < 8 and not experience.loss_mask[~rollout.finished].any()
    results = []
    for number in (0.0, 100.0):
        other = experience.advantages.where(rollout.finished[:, None], number)
        copy = make_trainer(tokenizer, mask_truncated=True, ptx_coef=0.0, **options)
        copy.update(replace(experience, advantages=other), [], Meter(), train_policy=True)
        results.append(weights(copy.policy))
    assert torch.equal(*results) and not torch.equal(results[0], weights(trainer.policy))


@pytest.mark.parametrize("options", [{}, RLOO], ids=["gae", "rloo"])
def test_without_it_the_score_of_a_truncated_response_counts(tokenizer, options):
    (_, one), (_, other) = (trained(tokenizer, reward, **options) for reward in (even_tokens, worse_if_truncated))
    assert not torch.equal(one, other)


def test_a_batch_without_truncated_responses_is_trained_on_as_without_it(tokenizer):
    every_token_stops = range(400)
    (step, one), (_, other) = (
        trained(tokenizer, even_tokens, stops=every_token_stops, mask_truncated=on) for on in (True, False)
    )
    assert step.rollout.finished.all() and torch.equal(one, other)


@pytest.mark.parametrize("options", [{}, *OTHERS], ids=str)
def test_a_batch_of_truncated_responses_alone_changes_no_weight(tokenizer, options):
    trainer = make_trainer(tokenizer, mask_truncated=True, ptx_coef=0.0, **options)
    trainer.stop_ids, before = [], [weights(model) for model in trainer.trained_models()]
    metrics = next(trainer.train()).metrics
    assert metrics["ended"] == 0.0 and metrics.get("pg_loss", 0.0) == 0.0 and "approx_kl" not in metrics
    assert all(torch.equal(weights(model), old) for model, old in zip(trainer.trained_models(), before, strict=True))
