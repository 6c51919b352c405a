"""mask_truncated leaves truncated responses out of the losses."""

import pytest
import torch

from tests.trainers import RLOO, even_tokens, make_trainer, weights

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


def test_a_batch_of_truncated_responses_alone_changes_no_weight(tokenizer):
    trainer = make_trainer(tokenizer, mask_truncated=True, ptx_coef=0.0)
    trainer.stop_ids, before = [], [weights(trainer.policy), weights(trainer.value_model)]
    metrics = next(trainer.train()).metrics
    assert metrics["ended"] == 0.0 and "pg_loss" not in metrics
    assert torch.equal(weights(trainer.policy), before[0]) and torch.equal(weights(trainer.value_model), before[1])
