"""A run that stands on another: what would be the same is read from there, and nothing there is written."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.pipeline import finished, make_here, record, stage
from tests.recipes import toy_recipe, write_recipe


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
    recipe = toy_recipe(tmp_path, **{"learning_rate: 1e-2": "learning_rate: 2e-2"})
    other = tmp_path / "other"
    output = make_here("comparisons", capsys, other, recipe, BASE=str(run))
    assert f"from {run}: data, pretrain" in output
    assert set(finished(other)) == {"sft", "comparisons"}


def test_a_result_of_the_base_that_is_up_to_date_is_read_instead_of_an_own_one_that_is_not(run, tmp_path, capsys):
    other = tmp_path / "other"
    make_here("sft", capsys, other, BASE=str(run), ARGS="--epochs 2")
    own = (other / "sft" / "model.safetensors").read_bytes()
    output = make_here("sft", capsys, other)
    assert f"from {run}: data, pretrain, sft" in output and f"is kept as {other}/sft.previous" in output
    # and by the stages that make starts
    make_here("comparisons", capsys, other, ARGS="--temperature 0.9")
    assert record(other, "comparisons")["inputs"]["<run>/sft"] == record(run, "comparisons")["inputs"]["<run>/sft"]
    # and its own one again, when its options are
    make_here("sft", capsys, other, ARGS="--epochs 2")
    assert (other / "sft" / "model.safetensors").read_bytes() == own


def test_every_stage_reads_the_folder_that_make_names(run, tmp_path, capsys):
    """The nearest base has an SFT model with other options; that of its base is up to date."""
    second, third = tmp_path / "second", tmp_path / "third"
    make_here("sft", capsys, second, BASE=str(run), ARGS="--epochs 2")
    (second / "sft" / "stage.json").write_text(json.dumps(record(second, "sft") | {"arguments": []}))
    output = make_here("ppo", capsys, third, BASE=str(second), ARGS="--kl_coef 0.3")
    assert f"from {run}: data, pretrain, sft, comparisons, reward" in output
    assert record(third, "ppo")["inputs"]["<run>/sft"] == record(run, "ppo")["inputs"]["<run>/sft"]


def test_a_base_that_was_moved_is_given_again(run, tmp_path, capsys):
    base, other = tmp_path / "base", tmp_path / "other"
    shutil.copytree(run, base)
    make_here("ppo", capsys, other, BASE=str(base), ARGS="--kl_coef 0.2")
    base.rename(tmp_path / "moved")
    output = make_here("ppo", capsys, other, ARGS="--kl_coef 0.2", status=2)
    assert f"{base}, the base of {other}, is gone: give its new folder with BASE=" in output
    assert "up to date" in make_here("ppo", capsys, other, BASE=str(tmp_path / "moved"), ARGS="--kl_coef 0.2")
    assert "up to date" in make_here("ppo", capsys, other, ARGS="--kl_coef 0.2")


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
        assert f"BASE={tmp_path}/nowhere: there is no run in that folder" in output
        assert not (tmp_path / "new").exists()


def test_packed_rows_are_not_written_into_the_base_and_leave_no_files(run, tmp_path):
    stage("pretrain", "--packing", "--max_steps", "1", run=run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".hashes.json"}
    assert len(list(run.glob(".tokens/text-*/*.arrow"))) == 2
    other = tmp_path / "other"
    stage("pretrain", "--packing", "--max_steps", "2", "--base", run, run=other)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".hashes.json"} == before
    assert not list(other.rglob("*.arrow"))
