"""Recipes: sections with line numbers, and what a recipe starts from."""

import json

import pytest

from rlhf import InputError
from stages.common.options import StageOptions
from stages.common.parsing import parse
from stages.common.recipe import recipe_base, recipe_options
from stages.common.request import command
from tests.recipes import write_recipe


def test_options_know_their_lines(tmp_path):
    path = write_recipe(tmp_path, "# comment\nppo:\n\n  lam: 1\n")
    assert recipe_options(path, "ppo") == [("lam", 1, f"{path}:4")]


@pytest.mark.parametrize(
    "text, message",
    [
        ("ppoo:\n  lam: 1\n", r'mine\.yaml:1: there is no option "ppoo", did you mean "ppo"\?'),
        ("ppo: 3\n", r"mine\.yaml:1: ppo must hold options"),
        ("ppo:\n  lam: 1\n  lam: 2\n", r"mine\.yaml:3: lam is given twice"),
        ("ppo:\n  lam: [1\n", r"mine\.yaml:\d+: not YAML"),
        ("- a\n- b\n", r"mine\.yaml:1: a recipe holds sections"),
        ("base: runs/tiny\n", r"mine\.yaml:1: no recipe runs/tiny, nor a run .*: run `make ppo` first"),
        ("base: runs/sums\n", r"mine\.yaml:1: no recipe runs/sums, .*: run `make ppo RECIPE=sums` first"),
        ("base: nowhere\n", r"mine\.yaml:1: no recipe nowhere, nor a run in a folder of that name"),
        ("base: [tiny]\n", r"mine\.yaml:1: base is the name or path of another recipe, or the folder of a run"),
    ],
)
def test_an_error_in_a_recipe_is_reported_with_its_line(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)  # where no run is
    with pytest.raises(InputError, match=message):
        recipe_options(write_recipe(tmp_path, text), "ppo")


def test_a_recipe_starts_from_another(tmp_path):
    base = write_recipe(tmp_path, "ppo:\n  kl_coef: 0.2\n  lam: 0.9\n")
    child = write_recipe(tmp_path, f"base: {base}\nppo:\n  kl_coef: 0.4\n", "child")
    options = parse("ppo", ["--recipe", child])
    assert (options.kl_coef, options.lam) == (0.4, 0.9)
    assert recipe_base(child) is None


def test_a_recipe_can_not_start_from_itself(tmp_path):
    for name, base in (("mine", "child"), ("child", "mine")):
        write_recipe(tmp_path, f"base: {tmp_path}/{base}.yaml\n", name)
    with pytest.raises(InputError, match="is based on itself"):
        recipe_options(f"{tmp_path}/mine.yaml", "ppo")


def test_an_empty_list_overrides_that_of_the_base(tmp_path):
    base = write_recipe(tmp_path, "data:\n  text: [a.txt]\n  prompts: [b.txt]\n")
    child = write_recipe(tmp_path, f"base: {base}\ndata:\n  text: []\n", "child")
    options = parse("data", ["--recipe", child])
    assert (options.text, options.prompts) == ([], ["b.txt"])
    with pytest.raises(InputError, match="child.yaml:2"):
        parse("data", ["--recipe", write_recipe(tmp_path, "data:\n  sample_by: []\n", "child")])


def test_a_recipe_based_on_a_run_starts_from_the_recipe_and_the_seed_of_that_run(tmp_path):
    recipe = write_recipe(tmp_path, "seed: 3\nppo:\n  kl_coef: 0.2\n  lam: 0.9\n")
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"recipe": recipe, "seed": "5", "base": None}))
    child = write_recipe(tmp_path, f"base: {run}\nppo:\n  kl_coef: 0.4\n", "child")
    options = parse("ppo", ["--recipe", child])
    assert (options.kl_coef, options.lam, options.seed) == (0.4, 0.9, 5)
    assert recipe_base(child) == str(run)
    grandchild = write_recipe(tmp_path, f"base: {child}\n", "grandchild")
    assert recipe_base(grandchild) == str(run)


def run_folder(folder, recipe, base=None):
    """A folder that holds only the settings of a run."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"recipe": recipe, "seed": None, "base": base}))
    return str(folder)


def test_another_run_stands_in_for_the_one_that_a_recipe_names(tmp_path):
    first = run_folder(tmp_path / "first", write_recipe(tmp_path, "ppo:\n  kl_coef: 0.2\n", "one"))
    child = write_recipe(tmp_path, f"base: {tmp_path}/gone\nppo:\n  lam: 0.9\n", "child")
    options = parse("ppo", ["--recipe", child, "--base", first])
    assert (options.kl_coef, options.lam) == (0.2, 0.9)
    assert recipe_base(child, first) == f"{tmp_path}/gone"
    # a second round on a run that was made with the same recipe
    second = run_folder(tmp_path / "second", child, first)
    assert parse("ppo", ["--recipe", child, "--base", second]).kl_coef == 0.2
    for name, base in (("a", "b"), ("b", "a")):
        run_folder(tmp_path / name, child, f"{tmp_path}/{base}")
    with pytest.raises(InputError, match="is based on itself"):
        recipe_options(child, "ppo", f"{tmp_path}/a")


def test_a_printed_command_names_what_the_stage_was_given_and_no_more(tmp_path):
    base = run_folder(tmp_path / "my base", "tiny")
    child = write_recipe(tmp_path, f"base: {base}\n", "child")
    assert command("ppo", StageOptions()) == "make ppo RECIPE=tiny"
    assert command("ppo", StageOptions(recipe="mine", run="runs/mine")) == "make ppo RECIPE=mine"
    assert command("rank", StageOptions(run="x y", base=base)) == f"make rank RECIPE=tiny RUN='x y' BASE='{base}'"
    assert command("ppo", StageOptions(recipe="mine", base=base)) == f"make ppo RECIPE=mine BASE='{base}'"
    assert command("ppo", StageOptions(recipe=child, base=f"{base}/")) == f"make ppo RECIPE={child}"
    seeded = StageOptions(recipe=child, run="runs/child-seed3", run_seed=3, base=base)
    assert command("ppo", seeded) == f"make ppo RECIPE={child} SEED=3"
