"""Under FSDP2, stages compute what one process computes, and their checkpoints are those of one process."""

import json
import shutil
import sys

import pytest

from rlhf import InputError
from rlhf.engine import start_sharding
from tests.interrupted import SAVING
from tests.pipeline import record, shell, stage
from tests.stages.test_processes import (
    PPO,
    assert_same_log,
    ended,
    launch,
    log_of,
    run_stage,
    wait_for_step,
)
from tests.trainers import make_trainer

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
CONFIGURATION = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_cpu_ram_efficient_loading: true
  fsdp_reshard_after_forward: true
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_state_dict_type: SHARDED_STATE_DICT
num_processes: 4
"""
FAILING_SFT = (
    "import os; from stages.common.training import Resumable; from stages.sft import main, work\n"
    "step = Resumable.training_step\n"
    "def failing(self, *args, **kwargs):\n"
    "    if self.state.global_step == 7: os._exit(1)\n"
    "    return step(self, *args, **kwargs)\n"
    "Resumable.training_step = failing\n"
    "main('sft', work)\n"
)


@pytest.fixture(scope="module")
def base(toy_run, tmp_path_factory):
    """A copy of the toy run, whose stages computed in one process."""
    folder = tmp_path_factory.mktemp("sharding") / "toy"
    shutil.copytree(toy_run, folder)
    return folder


@pytest.fixture
def sharded(monkeypatch):
    """Stages that the test starts in several processes are sharded."""
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["sft", "reward"])
def test_a_sharded_training_stage_has_the_losses_and_gradients_of_one_process(base, tmp_path, sharded, name, count):
    outputs = run_stage(count, name, run=tmp_path / "run", base=base)
    assert f"{name}  ({count} processes, distributed: FSDP)" in outputs[0]
    result = record(tmp_path / "run", name)
    assert (result["processes"], result["distributed"]) == (count, "FSDP")
    for expected, row in zip(record(base, name)["history"], result["history"], strict=True):
        assert row == pytest.approx(expected, abs=1e-5, rel=1e-5)


@pytest.fixture(scope="module")
def one(base, tmp_path_factory):
    """PPO's six steps in one process."""
    run = tmp_path_factory.mktemp("one") / "run"
    stage("ppo", "--base", base, *PPO, run=run)
    return run


@pytest.fixture(scope="module")
def interrupted(base, tmp_path_factory):
    """The folders of runs that were killed, sharded over two processes, by stage: each has left a checkpoint."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in FSDP.items():
            patch.setenv(name, value)
        children = launch(2, "ppo", *PPO, run=folder / "ppo", base=base)
        wait_for_step(3, folder / "ppo", children)
        for child in children:
            child.kill()
        ended(children)
        ended(launch(2, "sft", *SAVING, run=folder / "sft", base=base, code=FAILING_SFT))
    return folder


@pytest.mark.slow
def test_a_sharded_ppo_resumes_to_the_same_bits_and_has_the_metrics_of_one_process(
    one, interrupted, base, tmp_path, sharded
):
    whole, resumed = tmp_path / "whole", shutil.copytree(interrupted / "ppo", tmp_path / "resumed")
    run_stage(2, "ppo", *PPO, run=whole, base=base)
    assert_same_log(log_of(one), log_of(whole))
    assert "resumes after step" in run_stage(2, "ppo", *PPO, run=resumed, base=base)[0]
    for file in ("model.safetensors", "value_model/model.safetensors"):
        assert (resumed / "ppo" / file).read_bytes() == (whole / "ppo" / file).read_bytes()
    for file in ("config.json", "value_model/config.json"):
        assert (whole / "ppo" / file).read_text() == (one / "ppo" / file).read_text()


def test_a_sharded_ppo_goes_on_in_one_process(one, interrupted, base, tmp_path):
    run = shutil.copytree(interrupted / "ppo", tmp_path / "run")
    assert "resumes after step" in stage("ppo", "--base", base, *PPO, run=run)
    assert_same_log(log_of(one), log_of(run))


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_sharded_sft_goes_on_from_its_checkpoint_sharded_or_not(interrupted, base, tmp_path, sharded, count):
    run = shutil.copytree(interrupted / "sft", tmp_path / "run")
    assert "resumes after step" in run_stage(count, "sft", *SAVING, run=run, base=base)[0]
    for expected, row in zip(record(base, "sft")["history"], record(run, "sft")["history"], strict=True):
        assert row == pytest.approx(expected, abs=1e-5, rel=1e-5)


@pytest.mark.slow
def test_three_processes_with_uneven_parts_and_a_shared_trunk_have_the_metrics_of_one(base, tmp_path, sharded):
    options = ("--total_episodes", "32", "--micro_batch_size", "3", "--share_trunk", "true")
    run_stage(3, "ppo", *options, run=tmp_path / "three", base=base)
    stage("ppo", "--base", base, *options, run=tmp_path / "one")
    assert_same_log(log_of(tmp_path / "one"), log_of(tmp_path / "three"))


@pytest.mark.slow
def test_make_takes_accelerates_configuration_of_fsdp(base, tmp_path):
    file = tmp_path / "fsdp.yaml"
    file.write_text(CONFIGURATION)
    variables = {"RECIPE": "tests/toy.yaml", "RUN": str(tmp_path / "run"), "BASE": str(base)}
    variables |= {"ACCELERATE": str(file), "PROCESSES": "2", "ARGS": "--total_episodes 16"}
    output = shell(sys.executable, "-m", "stages", "ppo", **variables)
    assert "ppo  (2 processes, distributed: FSDP)" in output
    metrics = json.loads((tmp_path / "run" / "ppo" / "log.jsonl").read_text().splitlines()[0])
    assert metrics["score"] == pytest.approx(log_of(base)[0]["score"], abs=1e-5)


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"FSDP_VERSION": "1"}, "FSDP 1 is not supported: set fsdp_version to 2"),
        ({"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "SIZE_BASED_WRAP is not supported"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "fsdp_activation_checkpointing is not supported"),
    ],
)
def test_settings_of_fsdp_that_are_not_supported_are_refused_in_words(sharded, monkeypatch, variables, message):
    for name in ("FSDP_CPU_RAM_EFFICIENT_LOADING", "FSDP_AUTO_WRAP_POLICY"):
        monkeypatch.setenv(name, "")  # so that their old values come back
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        start_sharding(cpu=True, precision="no")


def test_a_moving_average_of_a_sharded_policy_is_refused_in_words(tokenizer, monkeypatch):
    monkeypatch.setattr("rlhf.run.state.is_sharded", lambda model: True)
    with pytest.raises(InputError, match="ema_decay is not supported with FSDP"):
        make_trainer(tokenizer, ema_decay=0.9)
