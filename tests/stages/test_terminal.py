"""On the terminal and in reports, text from data, models and file names is escaped."""

import ast
import json
import shutil
import signal
import subprocess
import sys

import pytest

from rlhf.rollout import Completion
from stages.common.answer_options import SamplesOptions
from stages.common.console import ProgressBar, print_error, print_lines, say
from stages.samples import as_lines, as_markdown
from tests.forks import ROOT
from tests.pipeline import TOY, environment, make_here, shell, stage
from tests.recipes import write_recipe
from tests.test_escape import FORBIDDEN, rendered

EVIL = "\x1b[31mred\u202e\r\x07\x9b2J\u2028end"
SHOWN = r"\x1b[31mred\u202e\r\x07\x9b2J\u2028end"
NAME = f"<b>a|b*{EVIL}\n"  # of a file


def assert_clean(text: str) -> None:
    """The text has no control character or bidirectional override but line ends."""
    assert not FORBIDDEN.search(text.replace("\n", "")), ascii(text)


# --- what prints ------------------------------------------------------------------------------------------------------


def test_stages_print_only_through_the_console_module():
    found = set()
    for path in (path for folder in ("stages", "rlhf") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            is_print = isinstance(node, ast.Name) and node.id == "print"
            is_stream = isinstance(node, ast.Attribute) and node.attr in (
                "stdout",
                "stderr",
                "__stdout__",
                "__stderr__",
            )
            if is_print or is_stream:
                found.add(str(path.relative_to(ROOT)))
    assert found == {"stages/common/console.py"}


def test_a_line_stays_one_line_and_its_control_characters_are_shown(capsys):
    say(EVIL, "ppo")
    print_lines(f"{EVIL}\nppo", "next")
    bar = ProgressBar(2)
    bar.write(EVIL, f"a\n{EVIL}")
    bar.close()
    assert capsys.readouterr().out.split("\n") == [
        f"ppo          {SHOWN}", rf"{SHOWN}\nppo", "next", SHOWN, rf"a\n{SHOWN}", ""
    ]  # fmt: skip


def test_further_lines_of_an_error_can_not_look_like_lines_of_a_stage(capsys):
    print_error(f"sft: no file {EVIL}\nppo\r\n", blank=True)
    assert capsys.readouterr().err == f"\nsft: no file {SHOWN}\n  | ppo\\r\n"


def test_a_progress_bar_on_a_terminal_escapes_its_description(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    bar = ProgressBar(2)
    bar.update(1, **{EVIL: 1.0})
    description = bar.bar.desc
    bar.close()
    capsys.readouterr()
    assert description == f"{SHOWN} 1"


# --- samples ----------------------------------------------------------------------------------------------------------


def test_a_sample_can_not_imitate_another_answer():
    forged = "\n  ppo        perfect (gold 10.0)"
    lines = as_lines(f"a{forged}", [("sft\r", Completion([], f"b{forged}{EVIL}", True), 0.0)])
    assert lines[:3] == ["", "| a", "|   ppo        perfect (gold 10.0)"]
    assert lines[3].startswith(r"  sft\r      b ppo perfect (gold 10.0)\x1b[31mred\u202e\r\x07")
    assert lines[-1].endswith("(gold 0.0)")


def test_prompts_names_and_answers_stay_in_their_cells_of_samples_md():
    names = ["sft", f"a|b {EVIL}"]
    answers = [Completion([], text, True) for text in (f"x|y\n# {EVIL}z", "<script>[x](javascript:y) `*_")]
    table = [(f"{EVIL}|\n|---|", list(zip(names, answers, [None, 2.0], strict=True)))]
    source = as_markdown(table, names, SamplesOptions())
    assert_clean(source)
    # the parser of the tests refuses markup, so the emphasis of the gold, our own, is taken out
    heading, *cells = rendered(source.replace(" *(2.0)*", " (2.0)"))
    assert heading == ("h1", "Samples, temperature 1")
    assert cells == [
        *(("th", text) for text in ("prompt", "sft", f"a|b {SHOWN}")),
        *(("td", text) for text in (f"{SHOWN}|\n|---|", f"x|y\n# {SHOWN}z", "<script>[x](javascript:y) `*_ (2.0)")),
    ]


def test_samples_show_control_characters_of_a_prompt_and_their_table_keeps_its_columns(run):
    prompt = f"a|b <script>\n# {EVIL}"
    output = stage("samples", "--prompt", prompt, "--models", "sft", "ppo", "--response_length", "4", run=run)
    assert_clean(output)
    assert f"\n| User: a|b <script>\n| # {SHOWN}\n" in output
    table = (run / "samples" / "samples.md").read_bytes().decode()
    assert_clean(table)
    assert "<script" not in table
    cells = rendered(table)[1:]
    assert [kind for kind, _ in cells] == ["th"] * 3 + ["td"] * 3
    assert cells[3][1] == f"User: a|b <script>\n# {SHOWN}\nBot:"


def test_ppo_shows_control_characters_of_prompts_and_keeps_them_behind_their_bar(run, tmp_path):
    prompts = tmp_path / f"{NAME}.jsonl"
    prompts.write_text(json.dumps({"prompt": f"{EVIL}\nppo\n{EVIL}"}) + "\n")
    output = stage("ppo", "--prompts", prompts, "--show_samples", "1", run=run)
    assert_clean(output)
    assert output.split("\n").count(f"{' ' * 13}  | {SHOWN}") >= 4
    assert [line for line in output.split("\n") if line.startswith("ppo")] == ["ppo  (1 process, distributed: NO)"]


# --- files, runs and recipes ------------------------------------------------------------------------------------------


def test_an_error_shows_the_name_of_a_file_and_what_is_wrong_in_it(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    source = json.dumps(f"{NAME}.jsonl")
    recipe = write_recipe(tmp_path, f"data: {{folder: {folder}, demonstrations: [{source}]}}\n")
    assert_clean(stage("data", run=tmp_path / "run", recipe=recipe, status=2))
    (folder / f"{NAME}.jsonl").write_text(json.dumps({f"prompt{EVIL}": "a", "text": "b"}) + "\n")
    output = stage("data", run=tmp_path / "run", recipe=recipe, status=2)
    assert_clean(output)
    assert SHOWN in output


def test_options_and_recipes_are_shown_escaped(tmp_path, capsys):
    run = tmp_path / "run"
    recipe = write_recipe(tmp_path, f"base: {ROOT}/{TOY}\n", name=NAME)
    for output in (
        stage("data", f"--{EVIL}=1", run=run, status=2),
        stage("data", "--test_share", EVIL, run=run, status=2),
        stage("data", run=run, recipe=tmp_path / EVIL, status=2),
        make_here("data", capsys, run, recipe, status=2, ARGS=f"--{EVIL} 1"),
        make_here("data", capsys, run, recipe, status=2, SEED=EVIL),
        make_here("data", capsys, run, recipe, status=2, ARGS=f"'{EVIL}"),
        make_here("comparisons", capsys, run, recipe, status=2, ARGS=f"--labeller '{EVIL}:f'"),
    ):
        assert_clean(output)
        assert r"\x1b[31mred\u202e" in output or r"\\x1b" in output


def test_a_run_in_a_folder_of_any_name_is_shown_escaped(toy_run, tmp_path, capsys):
    run = tmp_path / f"{NAME}run"
    output = make_here("data", capsys, run)
    assert_clean(output)
    assert output.startswith(f"to be made in {tmp_path}/<b>a|b*{SHOWN}\\nrun: data\n")
    assert_clean(make_here("data", capsys, run))
    assert_clean(make_here("pretrain", capsys, tmp_path / "other", BASE=str(run), ARGS="--epochs none", status=2))
    other = make_here("data", capsys, tmp_path / "other", BASE=str(run), recipe=None)
    assert_clean(other)
    assert SHOWN in other


def test_the_report_of_an_evaluation_is_markdown_whatever_run_and_model_are_called(toy_run, tmp_path, capsys):
    run, model = tmp_path / f"{NAME}run", tmp_path / f"{NAME}model"
    shutil.copytree(toy_run, run)
    shutil.copytree(run / "sft", model)
    arguments = ("--models", "sft", model, "--count", "2", "--response_length", "4", "--best_of", "0")
    output = stage("evaluate", *arguments, run=run)
    assert_clean(output)
    report = (run / "evaluate" / "report.md").read_bytes().decode()
    assert_clean(report)
    assert "<b>" not in report
    elements = rendered(report)
    assert elements[0] == ("h1", f"<b>a|b*{SHOWN}\nrun, 2 held-out prompts")
    assert elements[1:4] == [("th", ""), ("th", "sft"), ("th", f"<b>a|b*{SHOWN}\nmodel")]
    assert {kind for kind, _ in elements[4:]} == {"td"} and len(elements[4:]) % 3 == 0


# --- encodings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["stages.data", "stages"])
@pytest.mark.parametrize("encoding", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1:strict"}])
def test_characters_that_the_terminal_can_not_encode_are_escaped(module, encoding, tmp_path):
    run = tmp_path / "é 中 😀"
    arguments = ["data"] if module == "stages" else ["--recipe", TOY, "--run", str(run)]
    output = shell(sys.executable, "-m", module, *arguments, RUN=str(run), RECIPE=TOY, **encoding)
    assert r"\u4e2d \U0001f600" in output
    arguments = ["data"] if module == "stages" else ["--recipe", "中.yaml"]
    output = shell(sys.executable, "-m", module, *arguments, status=2, RECIPE="中.yaml", **encoding)
    assert r"no recipe \u4e2d.yaml" in output


@pytest.mark.parametrize("module, arguments", [("stages.data", ["--recipe", TOY, "--run"]), ("stages", ["data"])])
def test_a_program_whose_output_nobody_reads_any_more_ends_quietly(module, arguments, tmp_path):
    run = str(tmp_path / "run")
    command = [sys.executable, "-m", module, *arguments, *([run] if "--run" in arguments else [])]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(RUN=run, RECIPE=TOY),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE
