"""An interrupted stage resumes to the same result; one that can't says so, and finished results are never lost."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from rlhf.models import load_policy
from rlhf.tokens import load_tokenizer
from stages.common.options import CHAIN, SavingOptions
from stages.common.resume import Saver
from tests.forks import ONE_THREAD, ROOT
from tests.interrupted import SAVING, kill_at_step, start
from tests.pipeline import command, finished, record, shell, stage

LONG = ("--total_episodes", "320")


@pytest.fixture(scope="module")
def stopped(toy_run, tmp_path_factory):
    """A run whose PPO was killed after a few steps of twenty."""
    run = tmp_path_factory.mktemp("stopped") / "toy"
    shutil.copytree(toy_run, run)
    kill_at_step(3, "ppo", *LONG, run=run)
    return run


@pytest.fixture
def half(stopped, tmp_path):
    """A copy of it that the test may change."""
    shutil.copytree(stopped, tmp_path / "toy")
    return tmp_path / "toy"


def newest(run):
    return sorted((run / ".ppo.partial" / "checkpoints").glob("step-*"))[-1]


# --- interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stages_killed_at_random_moments_end_with_the_same_bytes():
    output = shell(sys.executable, "-m", "tests.kill", "--kills", "20")
    for name in CHAIN:
        assert f"{name:<12}20 interruptions" in output
    assert "while writing a checkpoint" in output


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_lets_the_step_end_saves_and_says_how_to_resume(run, number):
    arguments = ("ppo", "--total_episodes", "6400", "--show_samples", "0")
    process = start(*arguments, run=run, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    before = finished(run)
    while line := process.stdout.readline():
        if line.split()[:1] == ["3"]:
            process.send_signal(number)
            break
    _, message = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "saving after this step" in message and "the same command resumes from there" in message
    assert finished(run) == before
    step = message.split("saved after step ")[1].split(":")[0]
    again, output = start(*arguments, run=run, stdout=subprocess.PIPE), ""
    while line := again.stdout.readline():
        output += line
        if "resumes" in line:
            break
    again.kill()
    again.wait()
    assert f"resumes after step {step}" in output


@pytest.mark.parametrize("interrupted, status", [(True, 128 + signal.SIGTERM), (False, 2)])
def test_an_error_that_a_library_makes_of_a_signal_is_an_interruption(tmp_path, interrupted, status):
    script = f"""
import os, signal
from rlhf import InputError
from stages.common.stage import main

def work(options, stage):
    try:
        if {interrupted}:
            os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError
    except BaseException as error:
        raise InputError("no model can be loaded") from error

main("data", work)
"""
    argv = ("--recipe", "tests/toy.yaml", "--run", str(tmp_path / "toy"))
    output = shell(sys.executable, "-c", script, *argv, status=status)
    assert ("the same command starts it again" in output) == interrupted
    assert ("no model can be loaded" in output) != interrupted


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_checkpoints_are_due_by_steps_and_by_minutes_and_take_at_most_a_twentieth_of_the_time(monkeypatch, tmp_path):
    clock = [1000.0]
    monkeypatch.setattr("stages.common.resume.time.time", lambda: clock[0])
    interrupted = SimpleNamespace(partial=tmp_path, made_from=dict, seconds=lambda: 0.0)
    saver = Saver(interrupted, SavingOptions(save_steps=4, save_minutes=1.0))
    assert [step for step in range(1, 10) if saver.due(step)] == [4, 8]
    clock[0] += 59
    assert not saver.due(9)
    clock[0] += 1
    assert saver.due(9)

    def slow(folder):
        clock[0] += 30

    saver.save(9, slow)
    clock[0] += 20 * 30 - 1
    assert not saver.due(10)
    clock[0] += 1
    assert saver.due(10)
    never = Saver(interrupted, SavingOptions(save_minutes=None))
    clock[0] += 1e6
    assert not any(never.due(step) for step in range(1, 10))


def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(half):
    path = newest(half)
    with open(path / "state.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    output = stage("ppo", *LONG, *SAVING, run=half)
    assert f"checkpoint {path} is damaged (state.safetensors has another SHA-256" in output
    assert f"resumes after step {int(path.name[5:]) - 1}" in output


def test_checkpoints_of_another_run_are_not_resumed_from(half):
    output = stage("ppo", "--total_episodes", "32", "--kl_coef", "0.5", run=half)
    assert "the interrupted run was another one (total_episodes 320, now 32, kl_coef 0.05, now 0.5)" in output
    assert "resumes" not in output
    assert record(half, "ppo")["options"]["kl_coef"] == 0.5


def test_an_interrupted_run_is_resumed_after_a_run_with_other_options(half):
    step = int(newest(half).name[5:])
    output = stage("ppo", "--total_episodes", "32", "--kl_coef", "0.5", run=half)
    assert f"it is kept in {half}/.ppo.interrupted" in output
    assert f"resumes after step {step}" in stage("ppo", *LONG, run=half)
    assert not (half / ".ppo.interrupted").exists()
    assert record(half, "ppo")["options"]["total_episodes"] == 320


@pytest.mark.slow
def test_two_interrupted_runs_with_different_options_are_both_resumed(half):
    step = int(newest(half).name[5:])
    other = ("--total_episodes", "320", "--kl_coef", "0.5")
    kill_at_step(9, "ppo", *other, run=half)
    assert (half / ".ppo.interrupted" / "checkpoints").is_dir()
    other_step = int(newest(half).name[5:])
    assert f"resumes after step {step}" in stage("ppo", *LONG, run=half)
    assert f"resumes after step {other_step}\n" in stage("ppo", *other, run=half)


def test_a_run_resumed_over_changed_code_names_both_versions(half):
    path = half / ".ppo.partial" / "begun.json"
    begun = json.loads(path.read_text())
    path.write_text(json.dumps(begun | {"code": "0123456789abcdef", "seconds": 1000.0}))
    assert "although the code has changed since" in stage("ppo", *LONG, run=half)
    assert record(half, "ppo")["code"] == f"0123456789abcdef+{begun['code']}"
    assert record(half, "ppo")["seconds"] > 1000  # the time before the interruption counts


def test_checkpoints_of_a_run_with_other_inputs_are_not_resumed_from(half):
    with open(half / "data" / "prompts.jsonl", "a") as file:
        file.write('{"prompt": "User: Name two tools.\\nBot:"}\n')
    output = stage("ppo", "--total_episodes", "32", run=half)
    assert "another one" in output and "resumes" not in output


def test_options_that_only_change_what_is_shown_do_not_matter(half):
    assert "resumes after step" in stage("ppo", *LONG, "--show_samples", "50", run=half)


def test_a_checkpoint_is_a_model_that_loads(half):
    path = newest(half)
    assert load_policy(path, load_tokenizer(path)).config.model_type == "gpt2"


def test_the_newest_checkpoints_stay_beside_the_finished_model(run):
    stage("ppo", *SAVING, run=run)
    assert [path.name for path in sorted((run / "ppo" / "checkpoints").iterdir())] == ["step-0000002", "step-0000003"]
    assert not list(run.glob(".ppo*"))


# --- results ----------------------------------------------------------------------------------------------------------


def test_a_kill_while_the_result_is_renamed_loses_nothing(run):
    """The states that a kill can leave: before, between and after the two renames."""
    new, old = (run / "ppo" / "model.safetensors"), (run / "ppo.previous" / "model.safetensors")
    stage("ppo", "--learning_rate", "1e-2", run=run)
    weights = {"new": new.read_bytes(), "old": old.read_bytes()}
    for state in ("before", "between"):
        (run / "ppo").rename(run / ".ppo.partial")
        (run / "ppo.previous").rename(run / ("ppo" if state == "before" else "ppo.previous"))
        output = stage("ppo", "--learning_rate", "1e-2", run=run)
        assert "had finished when it was interrupted" in output and "step" not in output
        assert {"new": new.read_bytes(), "old": old.read_bytes()} == weights
        assert not (run / ".ppo.partial").exists()


def test_a_finished_result_is_not_lost_if_the_next_command_is_another_one(run):
    """A kill before the renames; then a command with other options, which fails."""
    (run / "ppo").rename(run / ".ppo.partial")
    stage("ppo", "--model", "nowhere/at-all", run=run, status=2)
    assert (run / "ppo" / "model.safetensors").is_file()


def test_a_finished_result_of_other_options_is_not_taken_for_that_of_these(run):
    """A kill before the renames; then the same command with another option."""
    (run / "ppo").rename(run / ".ppo.partial")
    output = stage("ppo", "--kl_coef", "0.5", run=run)
    assert "had finished" not in output
    assert [record(run, name)["options"]["kl_coef"] for name in ("ppo", "ppo.previous")] == [0.5, 0.05]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_anything_in_the_place_of_the_previous_result_is_replaced(run, tmp_path, kind):
    previous, elsewhere = run / "ppo.previous", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    previous.touch() if kind == "file" else previous.symlink_to(elsewhere)
    stage("ppo", "--kl_coef", "0.5", run=run)
    assert record(run, "ppo.previous")["options"]["kl_coef"] == 0.05 and not previous.is_symlink()
    assert (elsewhere / "mine").exists()


def test_every_file_of_a_result_has_the_permissions_of_a_new_file(run, tmp_path):
    (tmp_path / "new").touch()
    modes = {path.stat().st_mode for path in (run / "ppo").rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "new").stat().st_mode}


def test_two_processes_on_one_result_are_refused(half):
    process = start("ppo", *LONG, run=half, stdout=subprocess.PIPE)
    while "resumes" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGSTOP)
    try:
        assert "another process is working in" in stage("ppo", *LONG, run=half, status=2)
    finally:
        process.kill()
        process.wait()


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))


def test_a_full_disk_is_reported_and_the_finished_result_stays(run):
    before = finished(run)
    done = subprocess.run(
        command("ppo", *SAVING, run=run),
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
        preexec_fn=limit_file_size,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "can't write the checkpoint" in done.stderr
    assert finished(run) == before


def test_a_folder_that_can_not_be_written_to_is_reported():
    assert "/proc/rlhf" in stage("data", run="/proc/rlhf", status=2)


def test_a_record_says_what_a_result_was_made_from(run):
    entries = record(run, "reward")
    assert entries["options"]["batch_size"] == 8 and entries["options"]["epochs"] == 1.0
    assert {"batch_size", "seed"} <= set(entries["given"]) and "epochs" not in entries["given"]
    assert set(entries["inputs"]) == {
        "<run>/sft", "<run>/comparisons/train.jsonl", "<run>/comparisons/test.jsonl", "<run>/data/demonstrations.jsonl",
    }  # fmt: skip
    assert entries["arguments"] == [] and len(entries["code"]) == 16
    assert json.dumps(entries, allow_nan=False)
