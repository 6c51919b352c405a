"""A run that stands on another: what would be the same is read from there, and nothing there is written."""

import hashlib
from pathlib import Path

import pytest

from tests.pipeline import finished, make_here, record
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
