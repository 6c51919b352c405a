"""The equalities checked before the first step hold for correct models, and each kind of mistake breaks one."""

from functools import partial

import pytest
import torch

from rlhf import InputError
from rlhf.rollout import generate
from rlhf.scoring import reward_model_scores
from tests.conftest import scorer_of, tiny_gpt2
from tests.trainers import make_trainer

# --- correct models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_ratio_is_one_and_kl_zero_before_the_first_step_with_dropout_modules_and_temperature(
    tokenizer, make_policy, temperature
):
    trainer = make_trainer(tokenizer, make_policy, dropout=0.5, temperature=temperature)
    first = next(trainer.train())
    assert first.metrics["kl"] == pytest.approx(0, abs=1e-5)
    assert first.metrics["approx_kl"] == pytest.approx(0, abs=1e-9)
    assert first.metrics["clip_fraction"] == 0
    assert trainer.sanity_report.startswith("checks passed: ratio = 1")
    assert "KL to the reference = 0" in trainer.sanity_report
    assert "padding changes no log-probability" in trainer.sanity_report


def test_a_reference_other_than_the_policy_is_allowed_and_its_kl_is_measured(tokenizer):
    trainer = make_trainer(tokenizer)
    with torch.no_grad():
        trainer.reference.lm_head.weight.add_(0.3 * torch.randn_like(trainer.reference.lm_head.weight))
    assert next(trainer.train()).metrics["kl"] > 0.01
    assert "KL to the reference" not in trainer.sanity_report


@pytest.mark.usefixtures("another_precision")
def test_bf16_trains_and_passes_the_sanity_check(tokenizer):
    trainer = make_trainer(tokenizer, bf16=True)
    first, second = trainer.train()
    assert "ratio = 1" in trainer.sanity_report
    assert "KL to the reference = 0" in trainer.sanity_report  # although its matrices are stored rounded
    assert all(p.dtype == torch.float32 for p in trainer.policy.parameters())
    assert torch.bfloat16 in {p.dtype for p in trainer.reference.parameters()}
    assert abs(first.metrics["kl"]) < 0.3


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_policy_with_dropout_on_is_refused(tokenizer):
    trainer = make_trainer(tokenizer, dropout=0.5)
    trainer.policy.train()
    with pytest.raises(InputError, match=r"of the update differ from those of sampling.*dropout"):
        next(trainer.train())


def test_a_reference_with_dropout_on_is_refused(tokenizer):
    trainer = make_trainer(tokenizer, dropout=0.5)
    trainer.reference.train()
    with pytest.raises(InputError, match="policy and reference are the same model, but"):
        next(trainer.train())


def test_a_decoder_without_position_ids_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(
        "rlhf.engine.decoding.mask_arguments", lambda model, attention_mask: {"attention_mask": attention_mask}
    )
    with pytest.raises(InputError, match="of the update differ from those of sampling by .* position_ids"):
        next(make_trainer(tokenizer).train())


def test_a_decoder_at_another_temperature_is_refused(tokenizer, monkeypatch):
    def cooler(*args, temperature, **kwargs):
        return generate(*args, temperature=temperature / 2, **kwargs)

    monkeypatch.setattr("rlhf.trainer.generate", cooler)
    with pytest.raises(InputError, match="of the update differ from those of sampling by .* temperature"):
        next(make_trainer(tokenizer).train())


class BatchMean(torch.nn.Module):
    """A layer that adds the mean of the batch to each row."""

    def forward(self, hidden, *args, **kwargs):
        return hidden + 0.1 * hidden.mean(dim=0, keepdim=True)


def test_a_policy_that_sees_other_rows_is_refused(tokenizer):
    trainer = make_trainer(tokenizer)
    for policy in (trainer.policy, trainer.reference):
        policy.transformer.h.append(BatchMean())
    with pytest.raises(InputError, match="of the update differ from those of sampling by .* sees other rows"):
        next(trainer.train())


def test_a_reward_model_whose_score_depends_on_its_batch_is_refused(tokenizer):
    class BatchDependent(torch.nn.Module):
        def forward(self, input_ids, attention_mask, index, prefix_row):
            return input_ids[attention_mask.bool()][index] / 100 + input_ids.float().mean()

    correct = make_trainer(tokenizer, reward=partial(reward_model_scores, scorer_of(tiny_gpt2())))
    next(correct.train())
    assert "padding changes no score" in correct.sanity_report
    with pytest.raises(InputError, match="depends on the rows beside it"):
        next(make_trainer(tokenizer, reward=partial(reward_model_scores, BatchDependent())).train())
