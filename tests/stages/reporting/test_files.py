"""The files of a report: Markdown beside the page, runs that are half done, damaged files, and what make does first."""

import json
import re
from pathlib import Path

import pytest

from stages.common.evaluation import evaluation_of
from stages.common.request import Request
from stages.reporting.answers import changed_words, compare
from tests.pipeline import make_here, stage
from tests.stages.reporting.runs import answer, answers, write_json, write_lines, write_run


def test_the_page_is_one_file_without_an_address(reported):
    page = (reported / "report.html").read_text()
    assert not re.findall(r"(?:src|href|srcset)=\"(?!data:|#)", page)
    assert "default-src 'none'" in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page)


def test_the_markdown_file_has_the_same_sections_and_its_pictures_exist(reported):
    text = (reported / "report.md").read_text()
    page = (reported / "report.html").read_text()
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert len(sections) == 6
    assert [title in page for title in sections] == [True] * 6
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"', text)
    assert len(pictures) > 16
    assert sorted(pictures) == sorted(str(path.relative_to(reported)) for path in reported.glob("report/*"))


def test_hostile_text_is_escaped_in_markdown(reported):
    text = (reported / "report.md").read_text()
    assert "<script" not in text and "<img src=x" not in text
    assert "&lt;script&gt;" in text and "\\u202etxt" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e\u2028]", text)
    assert not re.search(r"(?<!\\)\[x\]\(javascript", text)


def test_the_report_says_what_was_measured_and_run(reported):
    text = (reported / "report.md").read_text()
    assert "| by the judge | 0.65 \\[0.50, 0.80] |" in text
    assert "| at temperature 0.7 | 0.70 |" in text
    assert "3 seeds, of the runs toy, toy-seed1, toy-seed2" in text
    assert "1,234 | 7 too long" in text
    assert "kl_coef 0.1" in text
    assert "--ptx_coef 0 --output toy/ppo-no-mix" in text.replace("\\_", "_")


def test_a_report_has_no_folder_of_this_machine(reported):
    for name in ("report.html", "report.md"):
        assert str(reported.parent) not in (reported / name).read_text()


def test_the_same_run_gives_the_same_report(reported, tmp_path):
    before = (reported / "report.html").read_bytes()
    stage("report", "--output", tmp_path / "again", run=reported)
    assert (tmp_path / "again" / "report.html").read_bytes() == before


def test_a_half_done_run_has_a_report_that_says_what_to_run(tmp_path):
    write_json(tmp_path / "toy" / "run.json", {"recipe": "tests/toy.yaml", "seed": None, "base": None})
    output = stage("report", run=tmp_path / "toy")
    text = (tmp_path / "toy" / "report.md").read_text()
    assert text.count("run `make evaluate RECIPE=") == 4
    assert text.count("run `make ppo RECIPE=") == 2
    assert "learning curves: PPO has no log yet" in output


@pytest.mark.parametrize(
    "file, line",
    [
        ("answers.jsonl", json.dumps({**answer("a", "sft", 1.0), "gold": "high"})),
        ("answers.jsonl", "not JSON"),
        ("rankings.jsonl", json.dumps({"completions": ["a", "b"], "ranks": [0], "scores": [1, 2], "lengths": [1, 2]})),
    ],
)
def test_a_damaged_file_is_an_error_with_its_line(tmp_path, file, line):
    folder = write_run(tmp_path / "toy")
    path = folder / "evaluate" / file
    path.write_text(path.read_text() + line + "\n")
    count = len(path.read_text().splitlines())
    assert f"{path}:{count}: " in stage("report", run=folder, status=2)


@pytest.mark.slow
def test_large_answers_stay_below_three_megabytes(tmp_path):
    folder = write_run(tmp_path / "toy")
    texts = {model: f"{model} says a few words. " * 70 for model in ("sft", "ppo")}
    rows = [answer(f"Question {i}", model, float(i), text) for i in range(900) for model, text in texts.items()]
    write_lines(folder / "evaluate" / "answers.jsonl", rows)
    stage("report", run=folder)
    assert (folder / "report.html").stat().st_size < 3 * 10**6
    assert "of 900 held-out prompts" in (folder / "report.html").read_text()


# --- answers ----------------------------------------------------------------------------------------------------------


def test_marked_pieces_join_to_the_text_and_a_run_of_changed_words_is_one_piece():
    text = "the big dog sat  on\nit"
    pieces = changed_words("the cat sat on the mat", text)
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, changed in pieces if changed] == ["big dog", "it"]


def test_gains_are_counted_and_the_median_prompt_is_the_middle_one():
    comparison = compare(answers(29))  # gains from -10 to 18
    assert "18 prompts gain, 1 stay equal, 10 lose; the median is 4.00" in comparison.lead()
    middle = comparison.groups["Median"]
    assert [comparison.gain(prompt) for prompt in middle] == [3.0, 4.0, 5.0]


def test_without_gold_the_gain_is_that_of_the_score():
    rows = [{**row, "gold": None} for row in answers(12)]
    comparison = compare(rows)
    assert comparison.measure == "score"
    assert comparison.gain(comparison.groups["Best: ppo gains most"][0]) == 0.5  # (11 - 10) / 2


def test_a_repeated_prompt_keeps_all_its_answers():
    rows = [answer("again?", model, gold) for gold in (1.0, 2.0) for model in ("sft", "ppo")]
    comparison = compare(rows)
    assert sorted(prompt.of("ppo", 1.0).gold for prompt in comparison.prompts) == [1.0, 2.0]


# --- what make does first ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_make_report_evaluates_the_models_that_exist_and_trains_none(run, capsys):
    for folder in ("ppo", "evaluate"):
        if (run / folder).is_dir():
            (run / folder).rename(run / f"hidden-{folder}")
    output = make_here("report", capsys, run)
    assert not (run / "ppo").exists()
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    assert {"pretrain", "sft"} <= set(metrics) and "ppo" not in metrics
    assert str(run / "report.html") in output
    again = make_here("report", capsys, run)
    assert "evaluate  (1 process" not in again


def test_policies_beside_ppo_are_evaluated_too(tmp_path):
    folder = write_run(tmp_path / "toy")
    write_lines(folder / "data" / "prompts_test.jsonl", [{"prompt": "a"}])
    (folder / "evaluate" / "stage.json").unlink()
    for name in ("ppo-no-mix", "ppo-no-mix.previous"):
        write_json(folder / name / "stage.json", {"options": {}, "seconds": 1})
    request = Request.read("report", {"RUN": str(folder), "RECIPE": "tests/toy.yaml"})
    evaluation = evaluation_of(request)
    models = [argument for argument in evaluation.arguments if argument.startswith("--models")]
    assert models == ["--models=sft", "--models=ppo", f"--models={folder / 'ppo-no-mix'}"]
    assert Path(models[-1].partition("=")[2]).is_dir()
