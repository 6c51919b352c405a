"""max_steps ends training, and its schedule, early: the result is that of the epochs that give as many steps."""

import json

import pytest

from tests.interrupted import kill_at_step
from tests.pipeline import record, stage

SHORT = ("--warmup_steps", "1")


def weights(name, *argv, run, folder):
    """The bytes of the model that a stage trains."""
    stage(name, *SHORT, *argv, "--output", folder, run=run)
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "name, epochs, batch_size, further",
    [
        ("sft", 64 / 200, 16, {}),  # of 200 rows
        ("sft", 64 / 200, 8, {"gradient_accumulation_steps": 2}),
        ("reward", 32 / 40, 8, {}),  # of 40 rows
    ],
)
def test_four_steps_are_those_of_as_many_epochs(toy_run, tmp_path, name, epochs, batch_size, further):
    argv = ("--batch_size", str(batch_size), "--trainer", json.dumps(further))
    by_epochs = weights(name, *argv, "--epochs", str(epochs), run=toy_run, folder=tmp_path / "epochs")
    by_steps = weights(name, *argv, "--max_steps", "4", run=toy_run, folder=tmp_path / "steps")
    assert by_steps == by_epochs
    assert record(tmp_path, "steps")["history"][-1]["step"] == 4


def test_more_steps_than_the_epochs_give_change_nothing(toy_run, tmp_path):
    without = weights("sft", run=toy_run, folder=tmp_path / "without")
    assert weights("sft", "--max_steps", "1000000", run=toy_run, folder=tmp_path / "with") == without
    assert record(tmp_path, "with")["history"][-1]["step"] == 13  # 200 rows, 16 a step


def test_max_steps_counts_steps_of_packed_rows(toy_run, tmp_path):
    stage("pretrain", "--packing", "--max_steps", "3", "--output", tmp_path / "packed", run=toy_run)
    assert record(tmp_path, "packed")["history"][-1]["step"] == 3


def test_a_stage_with_max_steps_resumes_to_the_same_bytes(run):
    argv = ("--max_steps", "8", "--warmup_steps", "1")
    stage("sft", *argv, run=run)
    expected = (run / "sft" / "model.safetensors").read_bytes()
    kill_at_step(3, "sft", *argv, run=run)
    assert "resumes after step" in stage("sft", *argv, run=run)
    assert (run / "sft" / "model.safetensors").read_bytes() == expected
