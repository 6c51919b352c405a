"""A run whose numbers diverge stops before it changes the weights, and names the numbers."""

import math

import pytest
import torch

from rlhf.run.health import Diverged
from tests.trainers import make_trainer, weights


def test_scores_that_are_not_finite_stop_the_run_before_they_change_the_weights(tokenizer):
    def reward(responses):
        return torch.where(responses.prompt_index == responses.prompt_index[1], math.nan, 0.5)

    trainer = make_trainer(tokenizer, reward=reward)
    before = weights(trainer.policy).clone()
    with pytest.raises(Diverged, match=r"step 1: \d+ of \d+ scores are not finite.*returns None") as error:
        list(trainer.train())
    assert torch.equal(weights(trainer.policy), before)
    assert error.value.rollout.scores.isnan().any() and error.value.step == 1


def test_weights_that_are_not_finite_stop_the_run(tokenizer):
    trainer = make_trainer(tokenizer)
    with torch.no_grad():
        trainer.reference.transformer.h[0].ln_1.weight.fill_(math.inf)
    with pytest.raises(Diverged, match="of the ref_logprobs are not finite"):
        list(trainer.train())


def break_first_value_gradient(trainer):
    """Makes the gradient of the value model infinite in the first update only."""
    calls = []

    def hook(gradient):
        calls.append(1)
        return gradient * math.inf if len(calls) == 1 else gradient

    trainer.value_model.model.score.weight.register_hook(hook)


def test_a_gradient_that_is_not_finite_stops_the_run(tokenizer):
    trainer = make_trainer(tokenizer)
    break_first_value_gradient(trainer)
    before = weights(trainer.policy).clone()
    with pytest.raises(Diverged, match=r"norms of the gradients .* (inf|nan).*skip_nonfinite"):
        list(trainer.train())
    assert torch.equal(weights(trainer.policy), before)


# torch's scheduler misses the optimizer step that is skipped
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
def test_with_skip_nonfinite_the_update_is_skipped_and_counted(tokenizer):
    trainer = make_trainer(tokenizer, skip_nonfinite=True)
    break_first_value_gradient(trainer)
    first, *others = trainer.train()
    assert first.metrics["skipped"] == pytest.approx(1 / trainer.config.updates_per_step)
    assert all(step.metrics["skipped"] == 0 for step in others)
    assert all(math.isfinite(number) for number in first.metrics.values())
    assert weights(trainer.policy).isfinite().all()


def test_a_kl_above_max_kl_stops_the_run(tokenizer):
    trainer = make_trainer(tokenizer, max_kl=1e-6, learning_rate=0.05)
    with pytest.raises(
        Diverged, match="the KL to the reference is .* nats per response .max_kl 1e-06.*kl_coef too low"
    ):
        list(trainer.train())


def test_an_entropy_below_min_entropy_stops_the_run(tokenizer):
    with pytest.raises(
        Diverged, match="the entropy is .* nats per token .min_entropy 10.*same response to every prompt"
    ):
        list(make_trainer(tokenizer, min_entropy=10.0).train())


def test_without_bounds_the_run_finishes(tokenizer):
    list(make_trainer(tokenizer, max_kl=None, min_entropy=None).train())
