"""When a stage is made again: by what its result was made from, never by which file is newer."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from rlhf import InputError
from stages.common.options import CHAIN
from stages.common.pipeline import Request, chain
from stages.common.requirements import check_sources
from tests.forks import ROOT
from tests.pipeline import TOY, finished, make_here, record, stage
from tests.recipes import write_recipe


def change_record(run: Path, name: str, **entries: object) -> None:
    """Edits the record of a finished stage."""
    path = run / name / "stage.json"
    path.write_text(json.dumps(record(run, name) | entries))


def remade(before: dict[str, str], run: Path) -> set[str]:
    """The stages that have been made since `before`."""
    after = finished(run)
    return {name for name in after if before.get(name) != after[name]}


def recipe_with(folder: Path, **replacements: str) -> str:
    """The toy recipe with lines replaced."""
    text = (ROOT / TOY).read_text()
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    return write_recipe(folder, text)


# --- options and inputs -----------------------------------------------------------------------------------------------


def test_nothing_is_made_when_nothing_has_changed(run, capsys):
    before = finished(run)
    assert make_here("ppo", capsys, run).split() == f"ppo up to date, in {run}/ppo".split()
    assert remade(before, run) == set()


def test_an_edit_of_a_recipe_remakes_the_stage_that_it_is_about(run, tmp_path, capsys):
    recipe = recipe_with(tmp_path, **{"show_samples: 2": "show_samples: 0  # fewer\n  lam: 0.9"})
    before = finished(run)
    output = make_here("ppo", capsys, run, recipe)
    assert "to be made (last time" in output and "lam 0.95, now 0.9" in output and "show_samples" not in output
    assert remade(before, run) == {"ppo"} and record(run, "ppo")["options"]["lam"] == 0.9


def test_a_stage_whose_inputs_come_out_the_same_is_not_made(run, tmp_path, capsys):
    """More prompts for PPO change neither the pretraining text nor the demonstrations."""
    recipe = recipe_with(tmp_path, **{"world_prompts: 120": "world_prompts: 125"})
    before = finished(run)
    output = make_here("ppo", capsys, run, recipe)
    assert remade(before, run) == {"data", "comparisons", "ppo"}
    for name in ("pretrain", "sft", "reward"):
        assert f"{name:<13}kept: the results that it reads are the same as before" in output
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


def test_the_options_of_an_interrupted_stage_that_never_finished_stay_with_it(run, capsys):
    shutil.rmtree(run / "reward")
    partial = run / ".reward.partial"
    partial.mkdir()
    (partial / "begun.json").write_text(json.dumps({"options": {}, "arguments": ["--learning_rate", "1e-2"]}))
    make_here("ppo", capsys, run)
    assert record(run, "reward")["options"]["learning_rate"] == 1e-2


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
    assert f"kept: {names} (its code has changed; `make data` or REMAKE=1 makes it again)" in output
    assert "to be made (last time" in output and "s): its code has changed" in output
    assert remade(before, run) == {"ppo"}


def test_changed_code_remakes_every_stage_if_told_to(run, capsys):
    for name in ("data", "sft"):
        change_record(run, name, code="other")
    before = finished(run)
    output = make_here("sft", capsys, run, REMAKE="1")
    assert remade(before, run) == {"data", "sft"}
    assert "pretrain     kept: the results that it reads are the same as before" in output


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


def test_a_record_that_does_not_say_what_it_was_made_from_is_out_of_date(run, capsys):
    entries = record(run, "ppo")
    del entries["inputs"]
    (run / "ppo" / "stage.json").write_text(json.dumps(entries))
    assert "its record does not say what it was made from" in make_here("ppo", capsys, run)


# --- what was there ---------------------------------------------------------------------------------------------------


def test_a_replaced_result_is_kept_until_the_next_one(run, capsys):
    weights = [(run / "ppo" / "model.safetensors").read_bytes()]
    for rate in ("1e-2", "2e-2"):
        make_here("ppo", capsys, run, ARGS=f"--learning_rate {rate}")
        weights.append((run / "ppo" / "model.safetensors").read_bytes())
        assert (run / "ppo.previous" / "model.safetensors").read_bytes() == weights[-2]
    assert len(set(weights)) == 3


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


# --- a run that stands on another -------------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_run_takes_the_stages_that_would_be_the_same_from_its_base(run, tmp_path, capsys):
    before, other = tree(run), tmp_path / "other"
    base = {"BASE": str(run), "recipe": None}
    output = make_here("ppo", capsys, other, **base, ARGS="--kl_coef 0.2")
    assert f"from {run}: data, pretrain, sft, comparisons, reward" in output
    assert "kl_coef 0.05, now 0.2" in output
    assert set(finished(other)) == {"ppo"} and record(other, "ppo")["options"]["kl_coef"] == 0.2
    assert tree(run) == before
    # RUN alone is enough from now on
    assert "up to date" in make_here("ppo", capsys, other, recipe=None, ARGS="--kl_coef 0.2")
    make_here("evaluate", capsys, other, recipe=None)
    assert set(finished(other)) == {"ppo"} and (other / "evaluate" / "report.md").is_file()
    assert tree(run) == before


def test_what_stands_on_a_base_notices_when_the_base_has_changed(run, tmp_path, capsys):
    other = tmp_path / "other"
    make_here("ppo", capsys, other, BASE=str(run), ARGS="--kl_coef 0.2")
    make_here("reward", capsys, run, ARGS="--learning_rate 1e-2")
    output = make_here("ppo", capsys, other, ARGS="--kl_coef 0.2")
    assert f"from {run}: data, pretrain, sft, comparisons, reward" in output and "reward has changed" in output
    assert record(other, "ppo")["inputs"]["<run>/reward"] != record(run, "ppo")["inputs"]["<run>/reward"]


def test_a_stage_that_differs_from_the_base_is_made_and_so_is_what_follows(run, tmp_path, capsys):
    recipe = recipe_with(tmp_path, **{"learning_rate: 1e-2": "learning_rate: 2e-2"})
    other = tmp_path / "other"
    output = make_here("comparisons", capsys, other, recipe, BASE=str(run))
    assert f"from {run}: data, pretrain" in output
    assert set(finished(other)) == {"sft", "comparisons"}


def test_a_result_of_ones_own_that_the_base_replaces_is_kept(run, tmp_path, capsys):
    other = tmp_path / "other"
    make_here("sft", capsys, other, BASE=str(run), ARGS="--epochs 2")
    output = make_here("sft", capsys, other)
    assert f"{run}/sft is used, {other}/sft is kept as {other}/sft.previous" in output
    assert not (other / "sft").exists() and record(other, "sft.previous")["options"]["epochs"] == 2
    assert f"from {run}: data, pretrain, sft" in make_here("sft", capsys, other)


def test_a_run_may_stand_on_a_run_that_stands_on_a_run(run, tmp_path, capsys):
    second, third = tmp_path / "second", tmp_path / "third"
    make_here("ppo", capsys, second, BASE=str(run), ARGS="--kl_coef 0.2")
    output = make_here("ppo", capsys, third, recipe=None, BASE=str(second), ARGS="--kl_coef 0.3")
    assert f"from {run}: data, pretrain, sft, comparisons, reward" in output and "kl_coef 0.2, now 0.3" in output
    assert set(finished(third)) == {"ppo"}


def test_a_recipe_names_the_run_that_it_is_based_on(run, tmp_path, capsys):
    recipe = write_recipe(tmp_path, f"base: {run}\nppo:\n  kl_coef: 0.2\n")
    other = tmp_path / "other"
    output = make_here("ppo", capsys, other, recipe)
    assert f"from {run}: data, pretrain, sft, comparisons, reward" in output
    assert record(other, "ppo")["options"]["kl_coef"] == 0.2


@pytest.mark.parametrize("base", ["itself", "nothing"])
def test_a_base_that_is_no_run_or_the_run_itself_is_refused(run, tmp_path, capsys, base):
    if base == "itself":
        assert "can't be its own base" in make_here("ppo", capsys, run, BASE=str(run), status=2)
    else:
        output = make_here("ppo", capsys, tmp_path / "new", BASE=str(tmp_path / "nowhere"), status=2)
        assert f"BASE: no recipe {tmp_path}/nowhere, nor a run in a folder of that name" in output
        assert not (tmp_path / "new").exists()


# --- what make is told ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "folder", "arguments"),
    [
        ({}, "runs/tiny", []),
        ({"RECIPE": TOY}, "runs/toy", []),
        ({"SEED": "3"}, "runs/tiny-seed3", []),
        ({"RUN": "elsewhere", "SEED": "3"}, "elsewhere", []),
        ({"ARGS": """--a 'b c' --d "e's" --f \\$5"""}, "runs/tiny", ["--a", "b c", "--d", "e's", "--f", "$5"]),
        ({"PROMPT": "It costs $5, `x` and 'y'"}, "runs/tiny", ["--prompt=It costs $5, `x` and 'y'"]),
    ],
)
def test_variables_decide_recipe_folder_and_options(variables, folder, arguments):
    request = Request.read("samples", variables)
    assert (str(request.run.folder), request.arguments) == (folder, arguments)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SEED": "1; rm -rf x"}, "SEED is '1; rm -rf x'; it must be a whole number"),
        ({"SEED": "-1"}, "SEED is '-1'"),
        ({"SEED": "1.5"}, "SEED is '1.5'"),
        ({"RECIPE": "a b"}, "no recipe a b"),
        ({"ARGS": "--prompt 'unclosed"}, "ARGS: No closing quotation: --prompt 'unclosed"),
    ],
)
def test_variables_that_make_no_sense_are_refused(variables, message):
    with pytest.raises(InputError, match=message):
        Request.read("ppo", variables)


def test_a_seed_of_make_overrides_that_of_an_earlier_one(tmp_path):
    request = Request.read("ppo", {"RUN": str(tmp_path), "SEED": "2"})
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "stage.json").write_text(
        json.dumps({"arguments": ["--seed", "1", "--epochs", "3", "--seed=1"]})
    )
    assert request.argv("sft")[2:] == ["--epochs", "3", "--seed=2"]


# --- what stages require of each other --------------------------------------------------------------------------------

WORLD = {"world": True}
OWN = {"text": ["a"], "demonstrations": ["b"], "comparisons": ["c"]}


def options_of(recipe: str) -> dict:
    request = Request.read("ppo", {"RECIPE": recipe})
    from stages.common.options import STAGES
    from stages.common.parsing import parse_given

    return {name: parse_given(name, request.argv(name)) for name in STAGES}


def recipe_of(folder: Path, **sections: dict) -> str:
    return write_recipe(folder, json.dumps(sections))


@pytest.mark.parametrize(
    ("ppo", "before"),
    [
        ({}, ["data", "pretrain", "sft", "comparisons", "reward"]),
        ({"reward_function": "a:b"}, ["data", "pretrain", "sft"]),
        ({"reward_model": "x"}, ["data", "pretrain", "sft"]),
        ({"reward_function": None}, ["data", "pretrain", "sft", "comparisons", "reward"]),
    ],
)
def test_ppo_needs_a_reward_model_unless_it_is_given_a_reward(tmp_path, ppo, before):
    options = options_of(recipe_of(tmp_path, ppo=ppo))
    assert chain("ppo", options) == [*before, "ppo"]
    assert chain("evaluate", options) == [*before, "ppo", "evaluate"]
    assert chain("reward", options) == list(CHAIN[:5])


@pytest.mark.parametrize(
    ("data", "sections", "message"),
    [
        (WORLD, {"comparisons": {"labeller": "a:b"}}, None),
        (WORLD, {}, "comparisons: no rankings and no labeller"),
        (WORLD, {"ppo": {"reward_function": "a:b"}}, None),
        (OWN, {}, None),
        ({**OWN, "text": []}, {}, "pretrain: no text to train on"),
        ({**OWN, "text": []}, {"pretrain": {"model": "gpt2"}}, "ppo: ptx_coef is 0.5, and there is no pretraining text"),
        ({**OWN, "text": []}, {"pretrain": {"model": "gpt2"}, "ppo": {"ptx_coef": 0}}, None),
        ({**OWN, "demonstrations": []}, {}, "sft: no demonstrations to train on"),
        ({**OWN, "demonstrations": []}, {"sft": {"demonstrations": "a.jsonl"}}, None),
        ({"text": ["a"]}, {"sft": {"demonstrations": "a"}, "ppo": {"reward_function": "a:b"}}, "ppo: no prompts"),
        ({"world": False}, {}, "pretrain: no text to train on"),
    ],
)  # fmt: skip
def test_a_recipe_that_lacks_rows_is_refused_before_the_first_stage(tmp_path, data, sections, message):
    parsed = options_of(recipe_of(tmp_path, data=data, **sections))
    options = {name: one.options for name, one in parsed.items()}
    if message is None:
        check_sources(chain("ppo", parsed), options)
    else:
        with pytest.raises(InputError, match=message):
            check_sources(chain("evaluate", parsed), options)
        check_sources(chain("data", parsed), options)  # the data stage itself can be made


def test_a_recipe_that_can_not_work_leaves_no_folder(tmp_path, capsys):
    recipe = write_recipe(tmp_path, "data:\n  world: true\n")
    assert "comparisons: no rankings and no labeller" in make_here("ppo", capsys, tmp_path / "run", recipe, status=2)
    recipe = write_recipe(tmp_path, "ppo:\n  kl_ceof: 1\n")
    assert 'mine.yaml:2: there is no option "kl_ceof"' in make_here("data", capsys, tmp_path / "run", recipe, status=2)
    assert not (tmp_path / "run").exists()


def test_a_stage_without_its_input_says_what_to_run(tmp_path):
    for name, before in (
        ("sft", "pretrain"),
        ("comparisons", "sft"),
        ("reward", "sft"),
        ("ppo", "sft"),
        ("samples", "data"),
    ):
        assert f"run `make {before}` first" in stage(name, run=tmp_path / "empty", status=2)
