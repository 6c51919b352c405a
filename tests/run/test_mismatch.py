"""The mismatch between the log-probabilities of sampling and of the update, measured at every step."""

import math

import pytest
import torch

from rlhf.run.health import mismatch_warning
from stages.common.ppo_log import show_step
from tests.trainers import make_trainer


def shift_sampled(trainer, shift):
    """Lowers the stored log-probabilities of sampling by `shift(rollout)` (B, T), as a mismatch would."""
    collect, trainer.sanity_report = trainer.collect, "not checked"

    def shifted(step):
        rollout = collect(step)
        rollout.logprobs = rollout.logprobs - shift(rollout)
        return rollout

    trainer.collect = shifted


def test_the_ratio_is_one_before_any_update_although_the_updates_of_the_step_move_the_policy(tokenizer, make_policy):
    trainer = make_trainer(tokenizer, make_policy, learning_rate=0.02, num_mini_batches=2, num_ppo_epochs=2)
    for step in trainer.train():
        assert step.metrics["clip_fraction"] > 0.05
        for name in ("ratio_mean", "ratio_p01", "ratio_p99"):
            assert step.metrics[name] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 3}, {"mask_truncated": True}])
def test_mean_and_percentiles_are_taken_over_all_response_tokens(tokenizer, options):
    trainer = make_trainer(tokenizer, **options)
    shift_sampled(trainer, lambda rollout: torch.where(rollout.prompt_index == 3, math.log(1.5), 0.0)[:, None])
    step = next(trainer.train())
    longer = step.rollout.mask[step.rollout.prompt_index == 3].sum()
    mean = 1 + 0.5 * float(longer / step.rollout.mask.sum())
    assert step.metrics["ratio_mean"] == pytest.approx(mean, abs=1e-5)
    assert step.metrics["ratio_p01"] == pytest.approx(1, abs=1e-5)
    assert step.metrics["ratio_p99"] == pytest.approx(1.5, abs=1e-5)


def test_only_the_first_minibatch_of_a_step_counts(tokenizer):
    trainer, batches = make_trainer(tokenizer, num_mini_batches=4, num_ppo_epochs=2), []
    shift_sampled(trainer, lambda rollout: (0.01 * (1 + rollout.prompt_index))[:, None])
    update = trainer.update
    trainer.update = lambda batch, *args, **kwargs: (batches.append(batch), update(batch, *args, **kwargs))
    step = next(trainer.train())
    assert len(batches) == 8
    ratios = (0.01 * (1 + batches[0].prompt_index)).exp().tolist()
    assert step.metrics["ratio_p01"] >= min(ratios) - 1e-5 and step.metrics["ratio_p99"] <= max(ratios) + 1e-5


@pytest.mark.parametrize(
    ("low", "high", "precision", "warned"),
    [
        (0.9995, 1.0005, "no", False),
        (0.9995, 1.01, "no", True),
        (0.95, 1.0, "no", True),
        (0.95, 1.05, "fp16", False),
        (0.8, 1.25, "bf16", False),
        (0.8, 1.25, "fp16", True),
        (0.6, 1.0, "bf16", True),
        (1.0, math.nan, "bf16", True),
    ],
)
def test_a_warning_says_what_a_mismatch_means_beyond_what_the_precision_explains(low, high, precision, warned):
    warning = mismatch_warning({"ratio_p01": low, "ratio_p99": high}, precision)
    assert bool(warning) == warned
    if warned:
        assert f"from {low:.3g} to {high:.3g}" in warning and "its gradient is biased" in warning
        assert ("Without mixed precision" in warning) == (precision != "no")


def test_a_step_without_an_update_has_no_mismatch_to_warn_of():
    assert mismatch_warning({"score": 1.0}, "no") == ""


def test_the_warning_is_printed_below_the_metrics_of_the_step(tokenizer):
    class Bar:
        lines: list[str] = []
        write = lines.append

    trainer = make_trainer(tokenizer)
    shift_sampled(trainer, lambda rollout: torch.full_like(rollout.logprobs, 0.5))
    for step in trainer.train():
        show_step(Bar, step, {"step": step.number, **step.metrics}, trainer, first=True)
    assert [line.split(":")[0].strip() for line in Bar.lines if "warning" in line] == ["warning"] * 2
    assert "warning" in Bar.lines[-1] and "from 1.65 to 1.65" in Bar.lines[-1]
