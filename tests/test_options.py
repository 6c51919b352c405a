"""Recipes and command lines: one parser, defaults that can be overridden, and clear words for what is wrong."""

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import fields

import pytest

from rlhf.errors import InputError
from stages.options import parse
from stages.plan import before_ppo, check_sources
from stages.recipe import RECIPES, STAGES, recipe_options
from stages.settings import _imported, check, code, files, values_of
from tests.pipeline import ROOT


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


def settled(tmp_path, recipe, *goals, arguments="", status=0) -> str:
    """What stages.settings prints."""
    given = [sys.executable, "-m", "stages.settings", "--recipe", str(recipe), "--run", str(tmp_path / "run"), *goals]
    environment = {**os.environ, "ARGS": arguments, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(given, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and done.returncode == status
    return done.stdout + done.stderr


def settings_of(tmp_path, stage) -> dict:
    return json.loads((tmp_path / "run" / ".settings" / f"{stage}.json").read_text())


def test_functions_and_files_of_the_command_line_are_watched_wherever_they_lie(tmp_path):
    rows, module = tmp_path / "rows.jsonl", tmp_path / "my_module.py"
    rows.write_text("1")
    module.write_text("def good(): return 1")
    arguments = f"--reward_function my_module:good --prompts={rows} --output {tmp_path}"
    assert settled(tmp_path, "tests/toy.yaml", "ppo", arguments=arguments) == ""
    first = settings_of(tmp_path, "ppo")
    assert list(first["files"]) == [str(rows)]  # not what lies where the result goes
    (tmp_path / "run" / "ppo").mkdir()
    (tmp_path / "run" / "ppo" / "stage.json").write_text("{}")

    rows.write_text("22")
    assert settled(tmp_path, "tests/toy.yaml") == f"ppo          out of date: {rows} changed\n"
    module.write_text("def good(): return 2")
    assert settled(tmp_path, "tests/toy.yaml") == "ppo          out of date: code changed\n"
    module.write_text("def good(): return 2  # two")
    assert settled(tmp_path, "tests/toy.yaml") == ""
    assert settings_of(tmp_path, "ppo")["code"] != first["code"]


def test_a_file_beside_those_that_are_named_changes_nothing(tmp_path):
    (tmp_path / "a.jsonl").write_text("1")
    options = {"folder": str(tmp_path), "text": ["a.jsonl"]}
    before = files(options)
    (tmp_path / "notes.md").write_text("to do")
    assert files(options) == before and list(before) == [str(tmp_path / "a.jsonl")]


def test_what_the_command_line_says_is_read_by_option():
    arguments = ["--a", "1", "--b", "x", "y", "--c=2", "--d"]
    assert values_of(arguments) == {"a": "1", "b": ["x", "y"], "c": "2", "d": "true"}


def test_libraries_on_pythonpath_are_not_read_and_a_module_that_is_no_python_is_named(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import theirs\n")
    library = tmp_path / "site-packages"
    library.mkdir()
    (library / "theirs.py").write_text("")
    for places, seen in (([tmp_path], ["mine"]), ([tmp_path, library], ["mine", "theirs"])):
        assert [module for module, _ in _imported(["mine"], places)] == seen
    given = "from stages.settings import OWN; print(*OWN)"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{library}"}
    shown = subprocess.run([sys.executable, "-c", given], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert shown.stdout.split() == [str(ROOT), str(tmp_path)]
    (tmp_path / "mine.py").write_text("def f(:\n")
    with pytest.raises(InputError, match="mine.py:1: not Python"):
        list(_imported(["mine"], [tmp_path]))


@pytest.mark.parametrize(
    ("options", "before"),
    [
        ({}, "reward"),
        ({"reward_function": "a:b"}, "sft"),
        ({"reward_model": "x"}, "sft"),
        ({"reward_function": "none"}, "reward"),
    ],
)
def test_ppo_waits_for_a_reward_model_unless_its_reward_is_named(options, before):
    assert before_ppo(options) == before


WORLD = {"world": True}
OWN = {"text": ["a"], "demonstrations": ["b"], "comparisons": ["c"]}


@pytest.mark.parametrize(
    ("data", "others", "says"),
    [
        (WORLD, {"comparisons": {"labeller": "a:b"}}, None),
        (WORLD, {}, "comparisons: nobody says what is better"),
        (WORLD, {"ppo": {"reward_function": "a:b"}}, None),
        (OWN, {}, None),
        ({**OWN, "text": []}, {}, "pretrain: nothing to learn from"),
        ({**OWN, "text": []}, {"pretrain": {"model": "gpt2"}}, "ppo: ptx_coef is 0.5, and there is no pretraining text"),
        ({**OWN, "text": []}, {"pretrain": {"model": "gpt2"}, "ppo": {"ptx_coef": "0"}}, None),
        ({**OWN, "demonstrations": []}, {}, "sft: nothing to learn from"),
        ({**OWN, "demonstrations": []}, {"sft": {"demonstrations": "a.jsonl"}}, None),
        ({"text": ["a"]}, {"sft": {"demonstrations": "a"}, "ppo": {"reward_function": "a:b"}}, "ppo: nothing to answer"),
        ({"world": "false"}, {}, "pretrain: nothing to learn from"),
    ],
)  # fmt: skip
def test_what_a_stage_will_want_and_nobody_makes_is_said_before_the_first_one_runs(data, others, says):
    named = {stage: {} for stage in ("pretrain", "sft", "comparisons", "reward", "ppo")} | {"data": data} | others
    if says is None:
        check_sources(named, ["ppo"])
    else:
        with pytest.raises(InputError, match=says):
            check_sources(named, ["evaluate"])
        check_sources(named, ["data"])  # which can be made


def test_make_refuses_a_recipe_that_can_not_work_before_any_work(tmp_path):
    own = recipe(tmp_path, "data:\n  world: true\n")
    assert "comparisons: nobody says what is better" in settled(tmp_path, own, "ppo", status=1)
    assert not (tmp_path / "run").exists()


def test_recipe_options_know_their_lines(tmp_path):
    path = recipe(tmp_path, "# comment\nppo:\n\n  lam: 1\n")
    assert recipe_options(path, "ppo") == [("lam", 1, f"{path}:4")]
