"""Options: one parser for recipes and command lines, and errors that say where and what to do."""

import re
from dataclasses import fields

import pytest

from rlhf import InputError
from stages.common.parsing import functions_of, parse, parse_given
from stages.common.programs import OPTIONS
from stages.common.recipe import RECIPES
from stages.common.stage import without_places
from tests.recipes import write_recipe


def test_a_source_of_rows_can_be_a_mapping_in_a_recipe_and_json_on_the_command_line(tmp_path):
    text = "data:\n  prompts:\n    - a.txt\n    - {path: b.jsonl, columns: {prompt: [context, question]}}\n"
    source = '{"path": "b.jsonl", "columns": {"prompt": ["context", "question"]}}'
    assert parse("data", ["--recipe", write_recipe(tmp_path, text)]).prompts == ["a.txt", source]
    assert parse("data", ["--prompts", "a.txt", source]).prompts == ["a.txt", source]
    single = write_recipe(tmp_path, "data:\n  text: {path: b.jsonl, columns: {text: content}}\n")
    assert parse("data", ["--recipe", single]).text == ['{"path": "b.jsonl", "columns": {"text": "content"}}']


def test_the_adapter_of_a_source_is_a_function_that_the_options_name(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_rows.py").write_text("def rows(raw): return [raw]\n")
    options = parse("data", ["--text", '{"path": "a", "adapter": "my_rows:rows"}'])
    assert functions_of(options) == ["my_rows:rows"]
    with pytest.raises(InputError, match="no function 'row' in module my_rows"):
        parse("data", ["--text", '{"path": "a", "adapter": "my_rows:row"}'])


def test_the_command_line_overrides_the_recipe_and_the_recipe_the_defaults(tmp_path):
    path = write_recipe(tmp_path, "seed: 3\nppo:\n  kl_coef: 0.2\n  ptx_coef: 0\n")
    options = parse("ppo", ["--recipe", path, "--kl_coef", "0.3"])
    assert (options.kl_coef, options.ptx_coef, options.seed) == (0.3, 0.0, 3)
    assert options.lam == 0.95
    assert str(options.run_folder) == "runs/mine"


@pytest.mark.parametrize(
    "text, message",
    [
        ("ppo:\n  kl_coeff: 1\n", r'mine\.yaml:2: there is no option "kl_coeff", did you mean "kl_coef"\?'),
        ("ppo:\n  lam: 1\n  kl_coef: much\n", r"mine\.yaml:3: .*kl_coef.*much"),
        ("ppo:\n  reward_function: no.such:f\n", "no module no"),
        ("ppo:\n  batch_size: 0\n", r"mine\.yaml:2: batch_size is 0; it must be from 1 to"),
        ("ppo:\n  temperature: 0\n", r"mine\.yaml:2: temperature is 0.0; it must be from 0.01 to 100"),
        ("data:\n  text:\n  - {path: a, colums: {}}\n", r"mine\.yaml:2: .*no 'colums', did you mean \"columns\""),
        ("data:\n  text:\n  - {columns: {text: a}}\n", r"mine\.yaml:2: .*needs a path"),
        ("ppo: {output: ../elsewhere}", r"mine\.yaml:1: a recipe's section can't set output"),
        ("ppo: {run: /tmp}", r"mine\.yaml:1: a recipe's section can't set run"),
        ("ppo: {base: /tmp}", r"mine\.yaml:1: a recipe's section can't set base"),
    ],
)
def test_an_error_in_a_recipe_is_reported_with_its_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        parse(text.partition(":")[0], ["--recipe", write_recipe(tmp_path, text)])


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--kl_ceof", "1"], 'command line: there is no option "kl_ceof", did you mean "kl_coef"?'),
        (["--kl_coef", "x"], "command line: kl_coef is 'x'; it must be a number, at least 0"),
        (["--bf16", "perhaps"], "'perhaps' is not true or false"),
        (["--kl_coef", "nan"], "kl_coef is nan; it must be a finite number"),
        (["--log_with", "nosuchtracker"], "log_with is 'nosuchtracker'; Accelerate supports aim"),
        (["stray"], "'stray' belongs to no option"),
        (["--recipe", "nowhere"], "no recipe nowhere: give the path of a YAML file, or one of"),
    ],
)
def test_an_error_on_the_command_line_is_reported(argv, message):
    with pytest.raises(InputError, match=re.escape(message)):
        parse("ppo", argv)


def test_an_option_that_may_be_none_can_be_set_to_none():
    assert parse("ppo", ["--missing_eos_penalty", "none"]).missing_eos_penalty is None
    assert parse("ppo", ["--kl_target", "3"]).kl_target == 3.0
    assert parse("sft", ["--max_length", "None"]).max_length is None


def test_flags_lists_choices_and_json_are_read():
    assert parse("ppo", ["--bf16"]).bf16 and parse("ppo", ["--bf16", "true"]).bf16
    assert not parse("reward", ["--no_unit_deviation"]).unit_deviation
    assert not parse("reward", ["--unit-deviation=false"]).unit_deviation
    assert parse("samples", ["--prompt", "a b", "c"]).prompt == ["a b", "c"]
    assert parse("reward", ["--normalise_on", "nothing"]).normalise_on == "nothing"
    assert parse("sft", ["--trainer", '{"max_grad_norm": 2}']).trainer == {"max_grad_norm": 2}
    for argv in (["--normalise_on", "everything"], ["--trainer", "[1]"], ["--trainer", '{"x": NaN}']):
        with pytest.raises(InputError):
            parse("reward", argv)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_valid(path, tmp_path, monkeypatch):
    (tmp_path / "runs" / "tiny").mkdir(parents=True)  # the base of one of them
    (tmp_path / "runs" / "tiny" / "run.json").write_text('{"recipe": "tiny"}')
    monkeypatch.chdir(tmp_path)
    for stage in OPTIONS:
        parse(stage, ["--recipe", path.stem])


@pytest.mark.parametrize("stage", OPTIONS)
def test_every_option_of_every_stage_has_a_help_text(stage, capsys):
    with pytest.raises(SystemExit):
        parse(stage, ["--help"])
    output = " ".join(capsys.readouterr().out.split())
    for field in fields(OPTIONS[stage]):
        assert f"--{field.name}" in output
        assert len(field.metadata["help"]) > 10


def test_what_a_recipe_or_the_command_line_sets_is_distinguished_from_defaults(tmp_path):
    path = write_recipe(tmp_path, "ppo:\n  lam: 0.95\n")
    given = parse_given("ppo", ["--recipe", path, "--kl-coef=0.05", "--whiten_rewards"]).given
    assert {"lam", "kl_coef", "whiten_rewards"} <= given and "gamma" not in given


def test_places_are_not_part_of_the_command_line_that_make_repeats():
    argv = ["--recipe", "a", "--run=b", "--epochs", "2", "--base", "c", "--models", "x", "y", "--output=d", "--bf16"]
    assert without_places(argv) == ["--epochs", "2", "--models", "x", "y", "--bf16"]
