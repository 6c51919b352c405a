"""When a stage is made again: by what its result was made from, never by which file is newer."""

import json
import shutil
from pathlib import Path

import pytest

from stages.common.options import CHAIN
from tests.pipeline import finished, make_here, record
from tests.recipes import toy_recipe


def change_record(run: Path, name: str, **entries: object) -> None:
    """Edits the record of a finished stage."""
    path = run / name / "stage.json"
    path.write_text(json.dumps(record(run, name) | entries))


def remade(before: dict[str, str], run: Path) -> set[str]:
    """The stages that have been made since `before`."""
    after = finished(run)
    return {name for name in after if before.get(name) != after[name]}


# --- options and inputs -----------------------------------------------------------------------------------------------


def test_nothing_is_made_when_nothing_has_changed(run, capsys):
    before = finished(run)
    assert make_here("ppo", capsys, run).split() == f"ppo up to date, in {run}/ppo".split()
    assert remade(before, run) == set()


def test_an_edit_of_a_recipe_remakes_the_stage_that_it_is_about(run, tmp_path, capsys):
    recipe = toy_recipe(tmp_path, **{"show_samples: 2": "show_samples: 0  # fewer\n  lam: 0.9"})
    before = finished(run)
    output = make_here("ppo", capsys, run, recipe)
    assert "runs again (last time" in output and "lam 0.95, now 0.9" in output and "show_samples" not in output
    assert remade(before, run) == {"ppo"} and record(run, "ppo")["options"]["lam"] == 0.9


def test_a_stage_whose_inputs_come_out_the_same_is_not_made(run, tmp_path, capsys):
    """More prompts for PPO change neither the pretraining text nor the demonstrations."""
    recipe = toy_recipe(tmp_path, **{"world_prompts: 120": "world_prompts: 125"})
    before = finished(run)
    output = make_here("ppo", capsys, run, recipe)
    assert remade(before, run) == {"data", "comparisons", "ppo"}
    for name in ("pretrain", "sft", "reward"):
        assert f"{name:<13}kept: the results that it reads have not changed" in output
    # the first 40 prompts, which are compared, are the same
    assert (run / "comparisons/train.jsonl").read_bytes() == (run / "comparisons.previous/train.jsonl").read_bytes()


def test_an_edited_input_file_remakes_the_stages_that_read_it(run, capsys):
    with open(run / "data" / "demonstrations.jsonl", "a") as file:
        file.write('{"prompt": "User: Name two tools.\\nBot:", "completion": " A hammer and a saw."}\n')
    before = finished(run)
    output = make_here("sft", capsys, run)
    assert "data/demonstrations.jsonl has changed" in output
    assert remade(before, run) == {"sft"}


def test_options_of_the_command_line_stay_with_the_stage_that_they_were_given_to(run, capsys):
    make_here("reward", capsys, run, ARGS="--learning_rate 1e-2")
    before = finished(run)
    output = make_here("ppo", capsys, run)
    assert "reward       with the options of its last command line: --learning_rate 1e-2" in output
    assert "reward has changed" in output
    assert remade(before, run) == {"ppo"} and record(run, "reward")["options"]["learning_rate"] == 1e-2
    # but the stage that is asked for is made with the options that it is asked for with
    make_here("reward", capsys, run)
    assert record(run, "reward")["options"]["learning_rate"] == 1e-3


@pytest.mark.parametrize("change", ["touch", "edit and undo", "copy"])
def test_files_that_are_newer_but_the_same_change_nothing(run, tmp_path, capsys, change):
    before = finished(run)
    if change == "touch":
        for path in run.rglob("*"):
            path.touch()
    elif change == "edit and undo":
        path = run / "data" / "text.jsonl"
        text = path.read_text()
        path.write_text("{}")
        path.write_text(text)
    else:
        shutil.copytree(run, tmp_path / "copy", copy_function=shutil.copy)
        run = tmp_path / "copy"
        before = finished(run)
    assert "up to date" in make_here("ppo", capsys, run)
    assert remade(before, run) == set()


def test_an_option_that_was_tried_and_dropped_changes_nothing(run, capsys):
    before = finished(run)
    partial = run / ".ppo.partial"
    shutil.copytree(run / "ppo", partial)
    (partial / "stage.json").unlink()
    begun = record(run, "ppo")["options"] | {"kl_coef": 0.9}
    (partial / "begun.json").write_text(json.dumps({"options": begun, "arguments": ["--kl_coef", "0.9"]}))
    assert "up to date" in make_here("ppo", capsys, run)
    assert remade(before, run) == set()


def test_the_options_of_an_interrupted_stage_that_never_finished_are_not_repeated(run, capsys):
    shutil.rmtree(run / "reward")
    partial = run / ".reward.partial"
    partial.mkdir()
    (partial / "begun.json").write_text(json.dumps({"options": {}, "arguments": ["--learning_rate", "1e-2"]}))
    make_here("ppo", capsys, run)
    assert record(run, "reward")["options"]["learning_rate"] == 1e-3


def test_an_error_in_repeated_options_names_the_stage_that_they_come_from(run, capsys):
    change_record(run, "sft", arguments=["--no_longer_an_option", "1"])
    output = make_here("ppo", capsys, run, status=2)
    assert "sft: command line: there is no option" in output and "`make sft` without ARGS drops them" in output


def test_an_interrupted_stage_is_resumed_by_the_same_command(run, capsys):
    before = finished(run)
    saving = "--total_episodes 64 --save_steps 1 --save_minutes none"
    arguments = f"{saving} --reward_function tests.rewards:fails_in_the_third_call"
    assert "raised ValueError" in make_here("ppo", capsys, run, ARGS=arguments, status=2)
    assert finished(run) == before
    assert "resumes after step 2" in make_here("ppo", capsys, run, ARGS=arguments)
    assert "up to date" in make_here("ppo", capsys, run, ARGS=arguments)


# --- code -------------------------------------------------------------------------------------------------------------


def test_changed_code_remakes_only_the_stage_that_is_asked_for(run, capsys):
    for name in CHAIN:
        change_record(run, name, code="other")
    before = finished(run)
    output = make_here("ppo", capsys, run)
    names = "data, pretrain, sft, comparisons, reward"
    assert f"kept: {names} (the code has changed; `make data` runs one again, REMAKE=1 all)" in output
    assert "runs again (last time" in output and "s): the code has changed" in output
    assert remade(before, run) == {"ppo"}


def test_changed_code_remakes_every_stage_if_told_to(run, capsys):
    for name in ("data", "sft"):
        change_record(run, name, code="other")
    before = finished(run)
    output = make_here("sft", capsys, run, REMAKE="1")
    assert remade(before, run) == {"data", "sft"}
    assert "s) if data changes" in output and "pretrain     kept: the results that it reads have not changed" in output


def test_a_stage_that_comes_out_the_same_remakes_nothing_after_it(run, capsys):
    change_record(run, "pretrain", code="other")
    before = finished(run)
    make_here("pretrain", capsys, run)
    assert "up to date" in make_here("ppo", capsys, run)
    assert remade(before, run) == {"pretrain"}


def test_a_changed_default_is_changed_code_and_not_a_changed_option(run, capsys):
    """A `git pull` that changes a default, or adds an option, retrains nothing that nobody asked for."""
    options = record(run, "sft")["options"]
    change_record(run, "sft", options={k: v for k, v in options.items() if k != "adam_beta2"} | {"weight_decay": 0.5})
    before = finished(run)
    output = make_here("ppo", capsys, run)
    assert "kept: sft (weight_decay 0.5, now 0.01; adam_beta2 None, now 0.95; `make sft`" in output
    assert remade(before, run) == set()
    make_here("sft", capsys, run)
    assert remade(before, run) == {"sft"}


def test_a_record_of_an_earlier_version_is_kept_unless_its_stage_is_the_goal(run, capsys):
    for name in ("sft", "ppo"):
        entries = record(run, name)
        for entry in ("inputs", "given", "arguments", "code"):
            del entries[entry]
        (run / name / "stage.json").write_text(json.dumps(entries))
    before = finished(run)
    output = make_here("ppo", capsys, run)
    message = "its record is of an earlier version and does not list its inputs"
    assert f"kept: sft ({message}" in output and f"s): {message}" in output
    assert remade(before, run) == {"ppo"}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"options": 1}', '{"options": {}, "seconds": 1, "inputs": {"a": 2}}', '{"a": 1}']
)
def test_a_damaged_record_is_named(run, capsys, text):
    (run / "sft" / "stage.json").write_text(text)
    assert f"{run}/sft/stage.json: damaged" in make_here("ppo", capsys, run, status=2)


@pytest.mark.parametrize("text", ["{", "[]", '{"recipe": 3}', None])
def test_a_run_without_a_valid_run_json_is_still_known(run, capsys, text):
    path = run / "run.json"
    path.unlink(missing_ok=True) if text is None else path.write_text(text)
    (run / ".hashes.json").write_text("[1")
    assert "up to date" in make_here("ppo", capsys, run, recipe=None)
    assert json.loads(path.read_text()) == {"recipe": "tests/toy.yaml", "seed": None, "base": None}


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_a_seed_of_make_holds_for_every_stage_and_is_remembered(run, tmp_path, capsys):
    make_here("sft", capsys, run, SEED="2", ARGS="--epochs 2")
    assert [record(run, name)["options"]["seed"] for name in ("data", "pretrain", "sft")] == [2, 2, 2]
    assert record(run, "sft")["arguments"] == ["--epochs", "2"]
    assert "up to date" in make_here("data", capsys, run, recipe=None)
    make_here("comparisons", capsys, run, recipe=None, SEED="3")
    options = record(run, "sft")["options"]
    assert (options["seed"], options["epochs"]) == (3, 2)


def test_a_seed_of_the_command_line_is_that_of_its_stage_only(run, capsys):
    make_here("sft", capsys, run, SEED="2", ARGS="--seed 5")
    assert [record(run, name)["options"]["seed"] for name in ("pretrain", "sft")] == [2, 5]


# --- what was there ---------------------------------------------------------------------------------------------------


def test_a_replaced_result_is_kept_until_the_next_one(run, capsys):
    weights = [(run / "ppo" / "model.safetensors").read_bytes()]
    for rate in ("1e-2", "2e-2"):
        make_here("ppo", capsys, run, ARGS=f"--learning_rate {rate}")
        weights.append((run / "ppo" / "model.safetensors").read_bytes())
        assert (run / "ppo.previous" / "model.safetensors").read_bytes() == weights[-2]
    assert len(set(weights)) == 3


def test_a_previous_result_is_used_again_when_its_options_are(run, capsys):
    first = (run / "reward" / "model.safetensors").read_bytes()
    make_here("reward", capsys, run, ARGS="--learning_rate 1e-2")
    before = finished(run)
    output = make_here("reward", capsys, run)
    assert f"{run}/reward.previous is up to date: it is reward again" in output
    assert (run / "reward" / "model.safetensors").read_bytes() == first
    assert record(run, "reward.previous")["options"]["learning_rate"] == 1e-2
    assert "up to date" in make_here("ppo", capsys, run)
    assert remade(before, run) == {"reward"}


def test_a_previous_result_does_not_come_back_when_the_result_was_removed(run, capsys):
    make_here("reward", capsys, run, ARGS="--learning_rate 1e-2")
    shutil.rmtree(run / "reward")
    make_here("reward", capsys, run, ARGS="--learning_rate 2e-2")
    assert record(run, "reward")["options"]["learning_rate"] == 2e-2
    assert record(run, "reward.previous")["options"]["learning_rate"] == 1e-3


def test_a_stage_that_fails_leaves_the_finished_result_and_ends_make(run, capsys):
    before = finished(run)
    output = make_here("ppo", capsys, run, ARGS=f"--model {run}/nowhere", status=2)
    assert "nowhere" in output
    assert remade(before, run) == set() and not (run / "ppo.previous").exists()


def test_an_input_file_of_the_user_that_is_gone_does_not_retrain_anything(run, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text((run / "data" / "demonstrations.jsonl").read_text())
    make_here("sft", capsys, run, ARGS=f"--demonstrations {rows}")
    make_here("ppo", capsys, run)
    rows.unlink()
    before = finished(run)
    assert f"kept: sft ({rows} is gone" in make_here("ppo", capsys, run)
    assert remade(before, run) == set()
    output = make_here("sft", capsys, run, ARGS=f"--demonstrations {rows}", status=2)
    assert f"no file at {rows}" in output
