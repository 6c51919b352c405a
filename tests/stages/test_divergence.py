"""A stage whose numbers are not finite stops, keeps the batch that they come from, and leaves the finished result."""

import json

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig

from rlhf import InputError
from stages.common.parsing import parse_given
from stages.common.stage import Stage
from stages.common.training import SavingSFTTrainer, train, trainer_arguments
from tests.conftest import tiny_gpt2
from tests.interrupted import SAVING
from tests.pipeline import finished, stage


def test_a_score_that_is_not_finite_stops_ppo_and_keeps_the_batch(run):
    output = stage("ppo", "--reward_function", "tests.rewards:one_infinity", run=run, status=2)
    assert "stopped in step 1: 1 of 16 scores are not finite" in output
    rows = [json.loads(line) for line in (run / "ppo-stopped-in-step-1.jsonl").read_text().splitlines()]
    assert len(rows) == 16 and [row["score"] for row in rows].count("inf") == 1
    assert rows[0]["prompt"].startswith("User:")


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_batch(run):
    output = stage("sft", "--learning_rate", "1e30", "--warmup_steps", "0", run=run, status=2)
    assert "the loss is nan" in output
    kept = next(run.glob("sft-stopped-in-step-*.jsonl"))
    assert len(kept.read_text().splitlines()) == 16 and kept.name in output


def test_a_gradient_that_is_not_finite_stops_training_and_keeps_the_batch(tokenizer, tmp_path):
    """The loss is finite. The first batch is at fault, not the next one, whose loss would show it."""
    parsed = parse_given("sft", ["--recipe", "tests/toy.yaml", "--run", str(tmp_path), "--batch_size", "2", *SAVING])
    sft = Stage("sft", parsed)
    sft.begin()
    rows = Dataset.from_list([{"input_ids": [i, i + 1, 0], "labels": [i, i + 1, 0]} for i in range(20, 30)])
    arguments = trainer_arguments(SFTConfig, sft.options, sft.partial)
    trainer = SavingSFTTrainer(model=tiny_gpt2(), args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.model.transformer.ln_f.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(InputError, match="stopped in step 1: the norm of the gradient is (inf|nan); its batch is in"):
        train(trainer, sft, sft.options)
    kept = [json.loads(line) for line in (tmp_path / "sft-stopped-in-step-1.jsonl").read_text().splitlines()]
    assert [row["input_ids"] for row in kept] == [[20, 21, 0], [21, 22, 0]]
    assert not list(sft.partial.glob("checkpoints/step-*"))


def test_weights_that_are_not_finite_are_neither_saved_nor_a_result(run):
    """The loss of the only step is finite; the weights after it are not."""
    before = finished(run)
    one_step = ("--epochs", "0.08", "--warmup_steps", "0", "--learning_rate", "1e39", *SAVING)
    assert "some weights are not finite" in stage("sft", *one_step, run=run, status=2)
    assert finished(run) == before and not list((run / ".sft.partial").glob("checkpoints/step-*"))
