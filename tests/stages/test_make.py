"""The Makefile: one command from nothing to PPO, and whatever is typed reaches programs as it is."""

import json
import sys
import time

import pytest

from stages.common.options import CHAIN
from tests.forks import ROOT
from tests.pipeline import finished, make, record, shell, venv


def test_one_command_makes_every_stage_and_shows_the_answers(tmp_path):
    run = tmp_path / "toy"
    output = make("ppo", run=run)
    lines = output.splitlines()
    assert lines[0] == f"to be made in {run}: {', '.join(CHAIN)}"
    headings = [line.removesuffix("  (1 process, distributed: NO)") for line in lines]
    assert [heading for heading in headings if heading in CHAIN] == list(CHAIN)
    assert "ratio = 1, KL to the reference = 0, padding changes no log-probability, padding changes no score" in output
    assert output.count("\n  pretrain ") == output.count("\n  sft ") == output.count("\n  ppo ") == 6
    assert (run / "ppo" / "ppo.png").stat().st_size > 10_000
    pickles = [path for suffix in ("bin", "pt", "pth", "pkl") for path in run.rglob(f"*.{suffix}")]
    assert not [path for path in pickles if "checkpoints" not in path.parts]
    assert json.loads((run / "run.json").read_text()) == {"recipe": "tests/toy.yaml", "seed": None, "base": None}


def test_what_is_up_to_date_is_known_at_once(run):
    before, started = finished(run), time.time()
    assert make("ppo", run=run).split() == f"ppo up to date, in {run}/ppo".split()
    assert time.time() - started < 3
    assert finished(run) == before


def test_a_misspelt_option_is_refused_before_any_work(run):
    before = finished(run)
    output = make("ppo", "ARGS=--kl_ceof 1", run=run, status=2)
    assert 'no option "kl_ceof", did you mean "kl_coef"?' in output
    assert finished(run) == before


def test_bare_make_explains_the_stages():
    output = shell("make", "--no-print-directory")
    for name in (*CHAIN, "samples", "evaluate", "setup", "test", "test-all", "lint", "clean", "clean-previous"):
        assert f"make {name}" in output


# --- what is typed ----------------------------------------------------------------------------------------------------

# each would be expanded by make, by a shell, or by both
TYPED = ["It costs $5", "a `touch $X` b", "$(shell touch $X)", "it's $$HOME", 'say "hi"; ls', "x' y", "#a % \\ | & *"]


@pytest.fixture
def echo(tmp_path):
    """A virtual environment for make whose Python prints its arguments and make's variables instead of running."""
    python = tmp_path / "echo" / "bin" / "python"
    python.parent.mkdir(parents=True)
    script = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c \'{script}\' "$@"\n')
    python.chmod(0o755)
    (tmp_path / "echo" / "ready").touch()
    return tmp_path / "echo"


@pytest.mark.parametrize("variable", ["RECIPE", "RUN", "BASE", "SEED", "ARGS", "PROMPT"])
@pytest.mark.parametrize("text", TYPED)
def test_a_variable_reaches_the_program_as_it_was_typed(echo, tmp_path, variable, text):
    text = text.replace("$X", str(tmp_path / "ran"))
    output = shell("make", "--no-print-directory", "samples", f"VENV={echo}", f"{variable}={text}")
    argv, environment = json.loads(output)
    assert argv == ["-m", "stages", "samples"] and environment[variable] == text
    assert not (tmp_path / "ran").exists()


def test_a_prompt_with_quotes_and_dollars_is_answered(run):
    prompt = """It costs $5, `touch ran` and $(touch ran); "x" isn't it?"""
    make("samples", f"PROMPT={prompt}", "ARGS=--models sft --response_length 2", run=run)
    assert record(run, "samples")["options"]["prompt"] == [prompt]
    assert not (ROOT / "ran").exists()


def test_an_unclosed_quote_in_args_is_reported(run):
    assert 'ARGS ends within a quote: --prompt "x' in make("samples", 'ARGS=--prompt "x', run=run, status=2)


@pytest.mark.parametrize(
    "name", ["two words", "a;touch ran", "`touch ran`", "$(shell touch ran)", "it's", 'say "hi"', "a#b"]
)
def test_a_run_may_have_any_name(tmp_path, name):
    run = tmp_path / name
    make("data", run=run)
    assert (run / "data" / "stage.json").is_file()
    assert not (ROOT / "ran").exists() and not (tmp_path / "ran").exists()
    assert "up to date" in make("data", run=run)


@pytest.mark.parametrize("variable", ["RECIPE", "SEED"])
@pytest.mark.parametrize("value", ["two words", "a;touch ran", "`touch ran`", "$(shell touch ran)", "it's"])
def test_a_recipe_or_a_seed_that_makes_no_sense_is_refused_and_not_run(tmp_path, variable, value):
    output = make("data", f"{variable}={value}", run=tmp_path / "run", status=2)
    assert f"no recipe {value}" in output or f"SEED is {value!r}" in output
    assert not (ROOT / "ran").exists() and not (tmp_path / "run").exists()


def test_the_environment_may_lie_in_a_folder_of_any_name(run, tmp_path):
    folder = tmp_path / "two words; `x`"
    folder.symlink_to(venv())
    assert "up to date" in make("data", f"VENV={folder}", run=run)


def test_args_of_other_targets_are_split_as_a_shell_would():
    argv = (sys.executable, "-m", "tests.with_args", "json.tool")
    assert "argument --indent: invalid int value: 'two $words'" in shell(*argv, ARGS="--indent 'two $words'", status=2)
    assert "ARGS ends within a quote: --indent 'x" in shell(*argv, ARGS="--indent 'x", status=1)
