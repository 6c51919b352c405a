"""Recipes and command lines: one parser, defaults that can be overridden, and clear words for what is wrong."""

import importlib
import re
from dataclasses import fields

import pytest

from rlhf.errors import InputError
from stages.options import parse
from stages.recipe import RECIPES, STAGES, recipe_options
from stages.settings import check, code, files


def options_of(stage):
    return importlib.import_module(f"stages.{stage}").Options


def recipe(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_the_command_line_overrides_the_recipe_and_the_recipe_the_defaults(tmp_path):
    path = recipe(tmp_path, "seed: 3\nppo:\n  kl_coef: 0.2\n  ptx_coef: 0\n")
    options = parse(options_of("ppo"), "ppo", ["--recipe", path, "--kl_coef", "0.3"])
    assert (options.kl_coef, options.ptx_coef, options.seed) == (0.3, 0.0, 3)
    assert options.lam == 0.95
    assert str(options.run_folder) == "runs/mine"


def test_a_recipe_is_based_on_another(tmp_path):
    recipe(tmp_path, "ppo:\n  kl_coef: 0.2\n  lam: 0.9\n")
    child = tmp_path / "child.yaml"
    child.write_text(f"base: {tmp_path}/mine.yaml\nppo:\n  kl_coef: 0.4\n")
    options = parse(options_of("ppo"), "ppo", ["--recipe", str(child)])
    assert (options.kl_coef, options.lam) == (0.4, 0.9)


def test_a_recipe_names_no_files_where_its_base_names_some(tmp_path):
    recipe(tmp_path, "data:\n  text: [a.txt]\n  prompts: [b.txt]\n")
    child = tmp_path / "child.yaml"
    child.write_text(f"base: {tmp_path}/mine.yaml\ndata:\n  text: []\n")
    options = parse(options_of("data"), "data", ["--recipe", str(child)])
    assert (options.text, options.prompts) == ([], ["b.txt"])
    child.write_text("data:\n  sample_by: []\n")
    with pytest.raises(InputError, match="child.yaml:2"):
        parse(options_of("data"), "data", ["--recipe", str(child)])


@pytest.mark.parametrize(
    "text, says",
    [
        ("ppo:\n  kl_coeff: 1\n", r'mine\.yaml:2: there is no option "kl_coeff", did you mean "kl_coef"\?'),
        ("ppo:\n  lam: 1\n  kl_coef: much\n", r"mine\.yaml:3: .*kl_coef.*much"),
        ("ppoo:\n  lam: 1\n", r'mine\.yaml:1: there is no option "ppoo", did you mean "ppo"\?'),
        ("ppo: 3\n", r"mine\.yaml:1: ppo must hold options"),
        ("ppo:\n  lam: 1\n  lam: 2\n", r"mine\.yaml:3: lam is given twice"),
        ("ppo:\n  lam: [1\n", r"mine\.yaml:\d+: not YAML"),
        ("- a\n- b\n", r"mine\.yaml:1: a recipe holds sections"),
        ("base: nowhere\n", "no recipe nowhere"),
        ("ppo:\n  reward_function: no.such:f\n", "no module no"),
        ("ppo:\n  batch_size: 0\n", "batch_size is 0"),
        ("ppo:\n  temperature: 0\n", "must be above 0"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named_with_its_line(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        parse(options_of("ppo"), "ppo", ["--recipe", recipe(tmp_path, text)])


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--kl_ceof", "1"], 'command line: there is no option "kl_ceof", did you mean "kl_coef"?'),
        (["--kl_coef", "x"], "command line: .*kl_coef"),
        (["--log_with", "nosuchtracker"], "log_with nosuchtracker: no package of that name"),
        (["stray"], "'stray' belongs to no option"),
        (["--recipe", "nowhere"], "no recipe nowhere: give the path of a YAML file, or one of"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_named(argv, says):
    with pytest.raises(InputError, match=re.escape(says) if "*" not in says else says):
        parse(options_of("ppo"), "ppo", argv)


def test_a_number_that_may_be_none_can_be_set_to_none():
    assert parse(options_of("ppo"), "ppo", ["--missing_eos_penalty", "none"]).missing_eos_penalty is None
    assert parse(options_of("ppo"), "ppo", ["--kl_target", "3"]).kl_target == 3.0


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_that_comes_with_the_project_is_understood(path):
    for stage in STAGES:
        parse(options_of(stage), stage, ["--recipe", path.stem])


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_of_every_stage_explains_itself(stage, capsys):
    with pytest.raises(SystemExit):
        parse(options_of(stage), stage, ["--help"])
    shown = capsys.readouterr().out
    for field in fields(options_of(stage)):
        assert f"--{field.name}" in shown
        assert len(field.metadata["help"]) > 10


# --- what make compares -----------------------------------------------------------------------------------------------


def test_options_of_all_stages_are_checked_before_the_first_one_runs(tmp_path):
    with pytest.raises(InputError, match="kl_ceof"):
        check(recipe(tmp_path, "ppo:\n  kl_ceof: 1\n"), {})


def test_the_code_of_a_stage_includes_what_it_imports_and_the_functions_it_names():
    sft, ppo = code("sft", {}), code("ppo", {})
    assert sft != ppo
    assert sft == code("sft", {})
    assert ppo != code("ppo", {"gold": "data.world:gold"})


def test_an_input_that_changes_is_seen(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("1")
    before = files({"folder": str(tmp_path), "text": ["a.jsonl"]})
    path.write_text("22")
    assert len(before) == 1
    assert files({"folder": str(tmp_path), "text": ["a.jsonl"]}) != before


def test_recipe_options_know_their_lines(tmp_path):
    path = recipe(tmp_path, "# comment\nppo:\n\n  lam: 1\n")
    assert recipe_options(path, "ppo") == [("lam", 1, f"{path}:4")]
