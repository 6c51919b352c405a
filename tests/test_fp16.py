"""fp16 with a loss scaler. Accelerate has it on GPUs only, so these tests lend it torch's scaler for the CPU."""

import json

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from trl import SFTConfig

from rlhf import InputError
from rlhf.config import PPOConfig
from rlhf.models import mixed_precision
from rlhf.run.health import Diverged
from stages.common.parsing import parse_given
from stages.common.stage import Stage
from stages.common.training import SavingSFTTrainer, train, trainer_arguments
from tests.conftest import tiny_gpt2
from tests.pipeline import stage
from tests.trainers import make_trainer, weights

LARGE = 2.0**60  # every gradient of the losses overflows


@pytest.fixture
def scaler(monkeypatch, another_precision):
    """A function that sets the scale at which fp16 begins on the CPU, and after how many steps it doubles."""
    settings, accelerator_init = {}, Accelerator.__init__

    def init(self, *args, **kwargs):
        accelerator_init(self, *args, **kwargs)
        if self.mixed_precision == "fp16":
            self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu", **settings)

    monkeypatch.setattr(Accelerator, "__init__", init)
    monkeypatch.setattr("rlhf.trainer.mixed_precision", lambda options: options.mixed_precision)
    return lambda scale, interval=2000: settings.update(init_scale=scale, growth_interval=interval)


# --- where it is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pretrain", "sft", "reward", "ppo"])
def test_a_stage_refuses_fp16_on_a_cpu_before_it_looks_for_a_model(name, tmp_path):
    assert "fp16 needs a GPU, and there is none: set bf16 instead" in stage(name, "--fp16", run=tmp_path, status=2)
    assert "bf16 and fp16 are both set: keep one" in stage(name, "--fp16", "--bf16", run=tmp_path, status=2)


@pytest.mark.parametrize(("device", "refused"), [("cpu", True), ("cuda", False)])
def test_fp16_needs_another_device_than_the_cpu(device, refused, monkeypatch):
    monkeypatch.setattr("rlhf.models.device", lambda: torch.device(device))
    if refused:
        with pytest.raises(InputError, match="fp16 needs a GPU"):
            mixed_precision(PPOConfig(fp16=True))
    else:
        assert mixed_precision(PPOConfig(fp16=True)) == "fp16"


# --- PPO --------------------------------------------------------------------------------------------------------------


def test_ppo_in_fp16_computes_in_fp16_and_passes_its_checks(tokenizer, scaler):
    trainer = make_trainer(tokenizer, fp16=True)
    first, second = trainer.train()
    assert "ratio = 1" in trainer.sanity_report and "KL to the reference = 0" in trainer.sanity_report
    assert all(p.dtype == torch.float32 for p in trainer.policy.parameters())
    assert torch.float16 in {p.dtype for p in trainer.reference.parameters()}
    assert first.metrics["skipped"] == second.metrics["skipped"] == 0


def test_a_step_that_the_scaler_skips_changes_nothing_but_the_scale_and_is_counted(tokenizer, scaler):
    scaler(LARGE)
    trainer = make_trainer(tokenizer, fp16=True, ema_decay=0.5)
    before, average = weights(trainer.policy), weights(trainer.average)
    step = next(trainer.train())
    assert step.metrics["skipped"] == 1 and "pg_loss" not in step.metrics
    assert step.metrics["learning_rate"] == pytest.approx(trainer.config.learning_rate)  # not yet decayed
    assert torch.equal(weights(trainer.policy), before) and torch.equal(weights(trainer.average), average)
    assert trainer.average.n_averaged == 0
    assert trainer.accelerator.scaler.get_scale() == LARGE / 2


def test_the_update_does_not_depend_on_the_scale(tokenizer, scaler):
    """So gradients are clipped after the scale is divided out."""

    def trained(scale):
        scaler(scale)
        trainer = make_trainer(tokenizer, fp16=True, max_grad_norm=0.01, adam_epsilon=0.1)
        before = weights(trainer.policy)
        list(trainer.train())
        return weights(trainer.policy) - before

    low, high = trained(2.0**6), trained(2.0**12)
    assert low.abs().max() > 0
    torch.testing.assert_close(low, high, atol=float(low.abs().max()) / 50, rtol=0)


def test_gradients_that_overflow_at_every_scale_stop_the_run(tokenizer, scaler):
    scaler(4.0)
    trainer = make_trainer(tokenizer, fp16=True, total_episodes=80)
    trainer.value_model.model.score.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = weights(trainer.policy)
    with pytest.raises(
        Diverged, match="stopped in step 4: the norms of the gradients"
    ):  # at 4, 2 and 1 it may overflow
        list(trainer.train())
    assert torch.equal(weights(trainer.policy), before)


def test_a_resumed_run_has_the_scale_and_the_weights_of_an_uninterrupted_one(tokenizer, scaler, tmp_path):
    scaler(16.0, interval=2)  # rises after steps 2 and 4

    def new_trainer():
        return make_trainer(tokenizer, fp16=True, total_episodes=8 * 5)

    whole = new_trainer()
    list(whole.train())
    first, second = new_trainer(), new_trainer()
    steps = first.train()
    for _ in range(3):
        next(steps)
    first.save_state(tmp_path)
    second.load_state(tmp_path)
    list(second.train())
    assert torch.equal(weights(second.policy), weights(whole.policy))
    state = whole.accelerator.scaler.state_dict()
    assert second.accelerator.scaler.state_dict() == state and state["scale"] == 64


# --- the trainers of TRL ----------------------------------------------------------------------------------------------


def sft(tmp_path, tokenizer, *options):
    """An SFT stage of ten rows in fp16, and its trainer."""
    saving = ("--save_steps", "1", "--batch_size", "2", "--warmup_steps", "0")
    parsed = parse_given("sft", ["--recipe", "tests/toy.yaml", "--run", str(tmp_path), "--fp16", *saving, *options])
    begun = Stage("sft", parsed)
    begun.begin()
    rows = Dataset.from_list([{"input_ids": [i, i + 1, 0], "labels": [i, i + 1, 0]} for i in range(20, 30)])
    arguments = trainer_arguments(SFTConfig, begun.options, begun.partial)
    trainer = SavingSFTTrainer(model=tiny_gpt2(), args=arguments, train_dataset=rows, processing_class=tokenizer)
    return begun, trainer


def test_sft_counts_skipped_steps_which_do_not_advance_the_schedule_and_saves_the_scale(tmp_path, tokenizer, scaler):
    scaler(2.0**60)
    begun, trainer = sft(tmp_path, tokenizer)
    log = train(trainer, begun, begun.options)
    rates = [step["learning_rate"] for step in trainer.state.log_history if "learning_rate" in step]
    assert log[0]["skipped"] == 1 and len(rates) == 5 and len(set(rates)) == 1
    assert "grad_norm" not in log[0]
    assert json.dumps(log, allow_nan=False)
    newest = sorted(begun.partial.glob("checkpoints/step-*"))[-1]
    assert torch.load(newest / "scaler.pt", weights_only=True)["scale"] == 2.0**55


def test_sft_in_fp16_learns_and_stops_if_gradients_overflow_at_every_scale(tmp_path, tokenizer, scaler):
    scaler(1.0)
    begun, trainer = sft(tmp_path / "one", tokenizer)
    (log,) = train(trainer, begun, begun.options)
    assert log["skipped"] == 0 and log["grad_norm"] > 0
    begun, trainer = sft(tmp_path / "two", tokenizer)
    trainer.model.transformer.ln_f.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(InputError, match="stopped in step 1: the norm of the gradient is (inf|nan)"):
        train(trainer, begun, begun.options)
