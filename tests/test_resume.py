"""What was interrupted goes on to what would have been; what can't go on says so, and nothing that was there is lost."""

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig

from rlhf.checkpoint import MANIFEST, _manifest
from rlhf.errors import InputError
from rlhf.models import load_policy, load_tokenizer
from stages.cli import Stage
from stages.options import SavingOptions
from stages.saving import Saver
from stages.training import SavingSFTTrainer, TrainingOptions, train, trainer_arguments
from tests.conftest import tiny_gpt2
from tests.forks import ONE_THREAD
from tests.pipeline import ROOT, STAGES, command, finished, make, shell, stage
from tests.test_trainer import make_trainer, weights

SAVING = ("--save_steps", "1", "--save_minutes", "none")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema_decay": 0.5, "kl_target": 1.0},
        {"share_trunk": True, "micro_batch_size": 3},
        {"advantage_estimator": "rloo", "num_generations": 2},
    ],
)
def test_ppo_goes_on_to_the_same_bits(tokenizer, tmp_path, options):
    whole = make_trainer(tokenizer, total_episodes=8 * 4, dropout=0.1, **options)
    expected = [step.metrics for step in whole.train()]

    first = make_trainer(tokenizer, total_episodes=8 * 4, dropout=0.1, **options)
    steps = first.train()
    found = [next(steps).metrics, next(steps).metrics]
    first.save_state(tmp_path)
    next(steps)  # what comes after the checkpoint is done again

    second = make_trainer(tokenizer, total_episodes=8 * 4, dropout=0.1, **options)
    second.load_state(tmp_path)
    found += [step.metrics for step in second.train()]
    assert found == expected
    for name, model in whole.models().items():
        assert torch.equal(weights(model), weights(second.models()[name])), name
    assert (second.kl_coef, second.steps_done) == (whole.kl_coef, 4)


def test_stages_killed_at_random_moments_end_with_the_same_bytes():
    printed = shell(sys.executable, "-m", "tests.kill", "--kills", "20")
    for name in STAGES:
        assert f"{name:<12}20 interruptions" in printed
    assert "in the write of a checkpoint" in printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_end_saves_and_says_how_to_go_on(run, number):
    line_of_it = command("ppo", "--total_episodes", "6400", "--show_samples", "0", run=run)
    process = subprocess.Popen(
        line_of_it,
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    before = finished(run)
    while line := process.stdout.readline():
        if line.split()[:1] == ["3"]:
            process.send_signal(number)
            break
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "saving after this step" in said and "the same command goes on from there" in said
    assert finished(run) == before
    step = said.split("saved after step ")[1].split(":")[0]
    printed = ""
    again = subprocess.Popen(line_of_it, cwd=ROOT, env={**os.environ, **ONE_THREAD}, stdout=subprocess.PIPE, text=True)
    while line := again.stdout.readline():
        printed += line
        if "goes on" in line:
            break
    again.kill()
    again.wait()
    assert f"goes on after step {step}" in printed


def interrupted(run, *arguments) -> Path:
    """Leaves a PPO run that was interrupted after some steps, and returns its checkpoints."""
    folder = run / ".ppo.partial" / "checkpoints"
    saving = command("ppo", *SAVING, *arguments, run=run)
    process = subprocess.Popen(saving, cwd=ROOT, env={**os.environ, **ONE_THREAD}, stdout=subprocess.DEVNULL)
    while not (folder / "step-0000003").exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    return folder


@pytest.fixture(scope="module")
def stopped(made, tmp_path_factory):
    """A run whose PPO was killed after a few steps of twenty."""
    run = tmp_path_factory.mktemp("stopped") / "toy"
    shutil.copytree(made[0], run)
    interrupted(run, "--total_episodes", "320")
    return run


@pytest.fixture
def half(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "toy", copy_function=shutil.copy2)
    # as if it had always been here
    begun = tmp_path / "toy" / ".ppo.partial" / "begun.json"
    begun.write_text(begun.read_text().replace(str(stopped), str(tmp_path / "toy")))
    return tmp_path / "toy"


def newest(run) -> Path:
    return sorted((run / ".ppo.partial" / "checkpoints").glob("step-*"))[-1]


def test_checkpoints_are_due_by_steps_and_by_minutes_and_never_take_more_than_a_twentieth_of_the_time(
    monkeypatch, tmp_path
):
    clock = [1000.0]
    monkeypatch.setattr("stages.saving.time.time", lambda: clock[0])
    saver = Saver(SimpleNamespace(folder=tmp_path), SavingOptions(save_steps=4, save_minutes=1.0))
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
    never = Saver(SimpleNamespace(folder=tmp_path), SavingOptions(save_minutes=None))
    clock[0] += 1e6
    assert not any(never.due(step) for step in range(1, 10))


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(half):
    path = newest(half)
    with open(path / "state.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    printed = stage("ppo", "--total_episodes", "320", *SAVING, run=half)
    assert f"checkpoint {path} is damaged (state.safetensors has another SHA-256" in printed
    assert f"goes on after step {int(path.name[5:]) - 1}" in printed


def test_checkpoints_of_another_run_are_not_gone_on_from(half):
    printed = stage("ppo", "--total_episodes", "32", "--kl_coef", "0.5", run=half)
    assert "what was interrupted was another run (total_episodes 320, now 32, kl_coef 0.05, now 0.5)" in printed
    assert "goes on" not in printed
    assert json.loads((half / "ppo" / "stage.json").read_text())["options"]["kl_coef"] == 0.5


def test_checkpoints_on_other_input_are_not_gone_on_from(half):
    with open(half / "data" / "prompts.jsonl", "a") as file:
        file.write('{"prompt": "User: Name two tools.\\nBot:"}\n')
    printed = stage("ppo", "--total_episodes", "32", run=half)
    assert "another run" in printed and "goes on" not in printed


def test_what_only_shows_may_change(half):
    assert "goes on after step" in stage("ppo", "--total_episodes", "320", "--show_samples", "50", run=half)


def test_a_checkpoint_is_a_model_that_loads(half):
    path = newest(half)
    assert load_policy(path, load_tokenizer(path)).config.model_type == "gpt2"


def test_the_last_checkpoints_stay_beside_the_finished_model(run):
    stage("ppo", *SAVING, run=run)
    assert [path.name for path in sorted((run / "ppo" / "checkpoints").iterdir())] == ["step-0000002", "step-0000003"]
    assert not list(run.glob(".ppo*"))


def test_a_finished_model_of_another_configuration_is_replaced_only_with_a_word(run):
    assert "(kl_coef 0.05, now 0.2)" in stage("ppo", "--kl_coef", "0.2", run=run)


def test_a_kill_while_the_result_is_moved_into_place_costs_nothing(run):
    (run / "ppo").rename(run / ".ppo.old")
    shutil.copytree(run / ".ppo.old", run / ".ppo.partial")
    printed = stage("ppo", run=run)
    assert "had finished when it was interrupted" in printed and "step" not in printed
    assert (run / "ppo" / "model.safetensors").is_file() and not (run / ".ppo.partial").exists()
    # or before the new one was whole
    (run / "ppo").rename(run / ".ppo.old")
    stage("ppo", "--model", "nowhere/at-all", run=run, status=2)
    assert (run / "ppo" / "model.safetensors").is_file()


def test_two_at_work_on_one_result_is_refused(half):
    longer = command("ppo", "--total_episodes", "320", run=half)
    process = subprocess.Popen(longer, cwd=ROOT, env={**os.environ, **ONE_THREAD}, stdout=subprocess.PIPE, text=True)
    while "goes on" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGSTOP)
    try:
        assert "another process is at work" in stage("ppo", "--total_episodes", "320", run=half, status=2)
    finally:
        process.kill()
        process.wait()


def limited():
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))


def test_a_disk_that_fills_up_is_named_and_what_was_there_stays(run):
    before = finished(run)
    done = subprocess.run(
        command("ppo", *SAVING, run=run),
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
        preexec_fn=limited,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "can't write the checkpoint" in done.stderr
    assert finished(run) == before


def test_a_place_that_can_not_be_written_to_is_named():
    assert "/proc/rlhf" in stage("data", run="/proc/rlhf", status=2)


def test_a_reward_that_is_no_number_stops_the_run_and_keeps_the_batch(run, tmp_path):
    (tmp_path / "odd.py").write_text(
        "def reward(completions):\n    return [float('inf') if i == 3 else 0.0 for i in range(len(completions))]\n"
    )
    odd = command("ppo", "--reward_function", "odd:reward", run=run)
    printed = shell(*odd, PYTHONPATH=str(tmp_path), status=2)
    assert "stopped in step 1: 1 of 16 scores are not finite" in printed
    rows = [json.loads(line) for line in (run / "ppo-stopped-in-step-1.jsonl").read_text().splitlines()]
    assert (
        len(rows) == 16 and [row["score"] for row in rows].count("inf") == 1 and rows[0]["prompt"].startswith("User:")
    )


def test_a_loss_that_is_no_number_stops_training_and_keeps_the_batch(run):
    printed = stage("sft", "--learning_rate", "1e30", "--warmup_steps", "0", run=run, status=2)
    assert "the loss is nan" in printed
    kept = next(run.glob("sft-stopped-in-step-*.jsonl"))
    assert len(kept.read_text().splitlines()) == 16 and kept.name in printed


def test_a_gradient_that_is_no_number_stops_training_and_keeps_the_batch(tokenizer, tmp_path):
    """The loss is finite: it is the first batch that did it, not the next one, whose loss would show it."""
    options = TrainingOptions(run=str(tmp_path), batch_size=2, save_steps=1)
    held = Stage("sft", options)
    held.begin()
    rows = Dataset.from_list([{"input_ids": [i, i + 1, 0], "labels": [i, i + 1, 0]} for i in range(20, 30)])
    arguments = trainer_arguments(SFTConfig, options, held.folder)
    trainer = SavingSFTTrainer(model=tiny_gpt2(), args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.model.transformer.ln_f.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(InputError, match="stopped in step 1: the norm of the gradient is (inf|nan); its batch is in"):
        train(trainer, held, options)
    kept = [json.loads(line) for line in (tmp_path / "sft-stopped-in-step-1.jsonl").read_text().splitlines()]
    assert [row["input_ids"] for row in kept] == [[20, 21, 0], [21, 22, 0]]
    assert not list(held.folder.glob("checkpoints/step-*"))


def test_weights_that_are_no_numbers_are_neither_saved_nor_called_a_result(run):
    """The loss of the one step is still finite; what it does to the weights is not."""
    before = finished(run)
    one_step = ("--epochs", "0.08", "--warmup_steps", "0", "--learning_rate", "1e39", *SAVING)
    assert "some weights are not finite" in stage("sft", *one_step, run=run, status=2)
    assert finished(run) == before and not list((run / ".sft.partial").glob("checkpoints/step-*"))


# --- what was only meant to be read is not run ------------------------------------------------------------------------


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_weights_that_would_run_code_are_refused(tokenizer, tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"w": Payload(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="would run code"):
        load_policy(tmp_path, tokenizer)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(InputError):
        load_policy(tmp_path, tokenizer)
    assert not (tmp_path / "ran").exists()


def test_code_that_comes_with_a_model_is_refused_without_a_question(tokenizer, tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "odd", "auto_map": {"AutoConfig": "odd.C", "AutoModelForCausalLM": "odd.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["odd.T", null]}}'
    )
    (tmp_path / "odd.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    for load in (lambda: load_policy(tmp_path, tokenizer), lambda: load_tokenizer(tmp_path)):
        with pytest.raises(InputError):
            load()
    assert not (tmp_path / "ran").exists()


def forged(folder) -> None:
    """Makes the manifest agree with what is there, as one would who means harm."""
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_text(json.dumps(_manifest(folder)))


def test_a_checkpoint_that_would_run_code_is_refused(run, tmp_path):
    saving = command("sft", *SAVING, run=run)
    process = subprocess.Popen(saving, cwd=ROOT, env={**os.environ, **ONE_THREAD}, stdout=subprocess.DEVNULL)
    folder = run / ".sft.partial" / "checkpoints"
    while not list(folder.glob("step-*")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    for name in ("optimizer.pt", "rng_state.pth"):
        path = sorted(folder.glob("step-*"))[-1]
        original = (path / name).read_bytes()
        torch.save({"state": Payload(tmp_path / "ran")}, path / name)
        forged(path)
        assert "would run code" in stage("sft", *SAVING, run=run, status=2)
        (path / name).write_bytes(original)
        forged(path)
    assert not (tmp_path / "ran").exists()


def test_a_ppo_checkpoint_that_makes_no_sense_is_refused(half):
    path = newest(half)
    (path / "state.json").write_text('{"dict": [["steps_done", {"tensor": "../../../etc/passwd"}]]}')
    forged(path)
    assert "can't be gone on from" in stage("ppo", "--total_episodes", "320", run=half, status=2)


@pytest.mark.parametrize("text, says", [
    ("ppo: {output: ../elsewhere}", "a recipe does not say where results go"),
    ("sft: {run: /tmp}", "a recipe does not say where results go"),
    ("sft: {trainer: {push_to_hub: true}}", "out of the run's folder"),
    ("sft: {trainer: {output_dir: /tmp}}", "output_dir"),
])  # fmt: skip
def test_a_recipe_leads_nowhere_out_of_its_run(run, tmp_path, text, says):
    recipe = tmp_path / "odd.yaml"
    recipe.write_text(f"base: {ROOT}/tests/toy.yaml\n{text}\n")
    assert says in stage(text.split(":")[0], run=run, recipe=recipe, status=2)


def test_nothing_is_reported_to_anyone():
    code = "import stages, os; from huggingface_hub import constants; assert constants.HF_HUB_DISABLE_TELEMETRY; assert os.environ['HF_HUB_DISABLE_TELEMETRY'] == '1'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_make_goes_on_where_it_was_killed(run):
    shutil.rmtree(run / "ppo")
    folder = interrupted(run, "--total_episodes", "320", "--show_samples", "0")
    assert folder.exists()
    arguments = f"--total_episodes 320 --show_samples 0 {' '.join(SAVING)}"
    printed = make("ppo", f"ARGS={arguments}", run=run)
    assert "goes on after step" in printed
    assert make("ppo", f"ARGS={arguments}", run=run).strip() == ""


@pytest.mark.parametrize("interrupted, status", [(True, 128 + signal.SIGTERM), (False, 2)])
def test_an_error_that_a_library_makes_of_a_signal_is_an_interruption(tmp_path, interrupted, status):
    script = f"""
import os, signal, stages.data
from rlhf.errors import InputError
from stages.cli import main

def work(options, stage):
    try:
        if {interrupted}:
            os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError
    except BaseException as error:
        raise InputError("no model can be loaded") from error

main("data", stages.data.Options, work)
"""
    argv = ("--recipe", "tests/toy.yaml", "--run", str(tmp_path / "toy"))
    said = shell(sys.executable, "-c", script, *argv, status=status)
    assert ("the same command starts it again" in said) == interrupted
    assert ("no model can be loaded" in said) != interrupted
