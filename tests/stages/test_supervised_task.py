"""make task: rows of every form, results, errors, interruptions, and when it runs again."""

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf.rows import write_rows
from tests.interrupted import kill_at_step
from tests.pipeline import make_here, record, stage

SHORT = ("--rows", "32", "--test_rows", "12", "--epochs", "1", "--warmup_steps", "1")
WORDS = "fox dog hen goat cat lamb duck bear wolf deer mole frog".split()


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of(form):
    """Forty rows of a form."""
    made = {
        "classification": lambda a, b: {"text": f"{a} and {b}", "label": int(a < b)},
        "entailment": lambda a, b: {"premise": f"a {a}", "hypothesis": f"a {b}", "label": ["yes", "no"][a < b]},
        "similarity": lambda a, b: {"text1": f"a {a}", "text2": f"a {b}", "label": a == b},
        "choice": lambda a, b: {"context": f"name {a}", "choices": [a, f"{b}s", "both"], "label": 0},
    }[form]
    return [made(WORDS[i % 12], WORDS[(i + i // 12) % 12]) for i in range(40)]


def test_a_task_of_the_world_leaves_a_classifier_predictions_and_the_accuracy(toy_run, tmp_path):
    output = stage("task", "--task", "topic", *SHORT, "--output", tmp_path / "topic", run=toy_run)
    rows, made = read(tmp_path / "topic" / "predictions.jsonl"), record(tmp_path, "topic")
    assert len(rows) == 12 and made["form"] == "classification" and len(made["labels"]) == 8
    metrics = made["metrics"]
    assert metrics["accuracy"] == sum(row["label"] == row["predicted"] for row in rows) / 12
    assert metrics["accuracy_low"] <= metrics["accuracy"] <= metrics["accuracy_high"]
    assert f"always the most common label: {metrics['majority']:.3f}" in output
    assert "<start>" in output and "<extract>" in output

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "topic").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "topic")
    for row in rows[:3]:
        ids = tokenizer(f"<start>{row['text']}<extract>", add_special_tokens=False, return_tensors="pt").input_ids
        probabilities = model(ids).logits[0].softmax(dim=0)
        expected = torch.tensor([row["probabilities"][name] for name in made["labels"]])
        torch.testing.assert_close(probabilities, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", ["classification", "entailment", "similarity", "choice"])
def test_a_file_of_each_form_is_learned(toy_run, tmp_path, form):
    path = tmp_path / "mine.jsonl"
    write_rows(path, rows_of(form))
    output = stage("task", "--task", path, *SHORT, "--output", tmp_path / "mine", run=toy_run)
    assert f"{form}; " in output
    rows, made = read(tmp_path / "mine" / "predictions.jsonl"), record(tmp_path, "mine")
    column = {"classification": "text", "entailment": "premise", "similarity": "text1", "choice": "context"}[form]
    assert made["form"] == form and str(path) in made["inputs"] and {"predicted", "label", column} <= rows[0].keys()
    # held-out rows share no first text with training rows
    held_out = {row[column] for row in rows}
    assert made["rows"]["used"] == min(32, sum(row[column] not in held_out for row in rows_of(form)))


def test_rows_held_out_by_the_user_are_the_test(toy_run, tmp_path):
    write_rows(tmp_path / "train.jsonl", rows_of("classification"))
    write_rows(tmp_path / "dev.jsonl", [{"sentence": "fox and hen", "label": 0}, {"sentence": "x", "label": 7}])
    files = ("--task", tmp_path / "train.jsonl", "--test", tmp_path / "dev.jsonl")
    stage("task", *files, *SHORT, "--output", tmp_path / "out", run=toy_run)
    (row,) = read(tmp_path / "out" / "predictions.jsonl")
    made = record(tmp_path, "out")
    assert row["text"] == "fox and hen" and made["test_rows"]["dropped"] == {"with an unknown label": 1}
    assert made["rows"]["used"] == 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there are topic, entailment, similarity, choice, or name a file of rows"),
        (("--task", "topics"), 'TASK=topics: no such task, did you mean "topic"?'),
        (("--task", "no/such.jsonl"), "no file at no/such.jsonl"),
        (("--task", "topic", "--form", "choice"), "form and test are for files, and topic is a task of the world"),
        (("--task", "topic", "--layers", "9", *SHORT), "layers is 9, and the model has 2: lower it"),
        (("--task", "topic", "--trainer", '{"dataset_text_field": "x"}'), "no argument"),
    ],
)
def test_what_can_not_be_done_is_refused(toy_run, tmp_path, arguments, message):
    assert message in stage("task", *arguments, "--output", tmp_path / "out", run=toy_run, status=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"sentence1": "a", "sentence2": "b", "label": 0}], "bad.jsonl:1: sentence1 and sentence2 may be"),
        ([{"text": "a", "label": 0}, {"text": "b", "label": 0}] * 5, "every training row has the label '0'"),
        ([{"text": "a", "label": 0}] * 3, "all rows have the same text, so none can be held out"),
        ([{"premise": "a", "hypothesis": "b", "label": -1}], "no usable rows (0 rows (1 dropped: 1 without a gold label))"),
    ],
)  # fmt: skip
def test_a_file_without_a_task_is_refused(toy_run, tmp_path, rows, message):
    write_rows(tmp_path / "bad.jsonl", rows)
    argv = ("--task", tmp_path / "bad.jsonl", "--output", tmp_path / "out")
    assert message in stage("task", *argv, run=toy_run, status=2)


@pytest.mark.slow
def test_an_interrupted_task_resumes_to_the_same_bytes(toy_run, run, tmp_path):
    arguments = ("--task", "entailment", *SHORT, "--batch_size", "4")
    stage("task", *arguments, "--output", tmp_path / "whole", run=toy_run)
    kill_at_step(3, "task", *arguments, "--output", str(run / "task"), run=run)
    output = stage("task", *arguments, "--save_minutes", "none", "--output", run / "task", run=run)
    assert "resumes after step" in output
    for file in ("model.safetensors", "predictions.jsonl"):
        assert (run / "task" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_make_keeps_one_result_for_each_task_and_makes_it_again_if_an_option_changes(run, capsys):
    argv = " ".join(SHORT)
    assert "task" in make_here("task", capsys, run, TASK="topic", ARGS=argv)
    again = make_here("task", capsys, run, TASK="topic", ARGS=argv)
    assert f"up to date, in {run}/task/topic" in again and "accuracy" in again
    make_here("task", capsys, run, TASK="choice", ARGS=argv)
    assert "up to date" in make_here("task", capsys, run, TASK="topic", ARGS=argv)
    changed = make_here("task", capsys, run, TASK="topic", ARGS=f"{argv} --lm_coef 0")
    assert "lm_coef 0.5, now 0.0" in changed and record(run, "task/topic")["history"][0].keys().isdisjoint(
        {"language_loss"}
    )
    back = make_here("task", capsys, run, TASK="topic", ARGS=argv)
    assert "is topic again" in back and "language_loss" in record(run, "task/topic")["history"][0]
