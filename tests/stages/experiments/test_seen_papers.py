"""What the experiments on papers before InstructGPT say of their tables: the sentences follow from the numbers."""

import pytest

from rlhf import InputError
from rlhf.evaluate import Estimate
from rlhf.run.files import write_json
from stages.experiments import gpt2, gpt3
from stages.experiments.results import row_of
from stages.experiments.variants import Runs
from tests.stages.experiments.test_seen import drawn, written


def around(value, width=0.05):
    return Estimate(value, value - width, value + width)


# --- gpt2 -------------------------------------------------------------------------------------------------------------


def grown(facts, lists):
    """The table for two sizes and two checkpoints; accuracies are of (size, checkpoint): 00, 01, 10, 11."""
    rows = []
    for task, numbers in (("facts", facts), ("list", lists)):
        for (size, at), value in zip(((0, 0), (0, 1), (1, 0), (1, 1)), numbers, strict=True):
            gains = {"by_size": around(value - numbers[at])} if size else {}
            gains |= {"by_tokens": around(value - numbers[2 * size])} if at else {}
            place = {"layers": size + 1, "width": 32, "parameters": (1000, 2000)[size], "tokens": (500, 1500)[at]}
            rows.append(row_of(task=task, **place, accuracy=around(value), **gains))
    return rows


def test_gpt2_says_which_tasks_grow_with_size_and_which_with_tokens(tmp_path):
    rows = written(grown(facts=(0.0, 0.1, 0.2, 0.9), lists=(0.5, 0.5, 0.51, 0.52)), tmp_path)
    text = gpt2.seen(rows)
    assert text.startswith(
        "From 1,000 to 2,000 parameters, after 1,500 tokens, the accuracy rises: facts from 0.10 to 0.90 [0.85, 0.95]; "
        "not clearly: list (0.52)."
    )
    assert text.endswith(
        "From 500 to 1,500 tokens, at the largest size, the accuracy rises: facts from 0.20 to 0.90 [0.85, 0.95]; "
        "not clearly: list (0.52)."
    )
    assert drawn(gpt2, rows) == 2


def test_gpt2_says_that_nothing_grows():
    text = gpt2.seen(grown(facts=(0.9, 0.9, 0.5, 0.5), lists=(0.5, 0.5, 0.5, 0.5)))
    assert text.count("the accuracy of no task clearly rises") == 2
    both = gpt2.seen(grown(facts=(0.0, 0.1, 0.2, 0.9), lists=(0.0, 0.1, 0.2, 0.9)))
    assert "not clearly" not in both and "list from 0.10 to 0.90" in both


def test_gpt2_asks_for_truths_that_only_the_embedded_world_has(tmp_path):
    with pytest.raises(InputError, match=r"no probes.jsonl: the experiment asks for truths of the embedded world"):
        gpt2.prepare(Runs(tmp_path))


def test_gpt2_measures_checkpoints_that_its_variants_keep():
    options = dict(gpt2.variants()[0].options)
    assert gpt2.STEPS % gpt2.EVERY == 0
    assert options["save_total_limit"] * options["save_steps"] == options["max_steps"]
    for layers, width in gpt2.SIZES:
        assert layers > 0 and width % (width // 16) == 0


# --- gpt3 -------------------------------------------------------------------------------------------------------------


def asked(courses, name="accuracy", used=(0.0, 1.0, 4.0, 15.0)):
    """A table whose accuracies at 0, 1, 4 and 16 examples are given by (separator, task, model)."""
    return [
        row_of(separator=separator, task=task, model=model, shots=shots, used=its, **{name: around(value)})
        for (separator, task, model), values in courses.items()
        for shots, its, value in zip((0, 1, 4, 16), used, values, strict=True)
    ]


def test_gpt3_says_which_models_gain_from_examples_and_that_more_are_worse(tmp_path):
    courses = {
        ("blank line", "facts", "pretrain"): (1.0, 0.8, 0.7, 0.1),
        ("blank line", "facts", "sft"): (0.3, 0.2, 0.2, 0.1),
        ("space", "facts", "pretrain"): (1.0, 0.99, 0.9, 0.1),
        ("space", "facts", "sft"): (0.3, 0.7, 0.5, 0.1),
    }
    rows = written(asked(courses), tmp_path)
    text = gpt3.seen(rows)
    assert text.startswith(
        "Joined by a blank line, examples clearly improve none of the 2 pairs of a task and a model."
    )
    assert (
        "Joined by a space, examples clearly improve facts by sft from accuracy 0.30 [0.25, 0.35] to 0.70 [0.65, 0.75] "
        "with 1." in text
    )
    assert text.endswith(
        "16 examples, of which 15.0 to 15.0 fit, are clearly better than one in 0 and clearly worse in 3 of 4 cases: "
        "GPT-3's rise with the number of examples does not show at this size."
    )
    assert drawn(gpt3, rows) == 1


def test_gpt3_says_that_accuracy_rises_with_the_number_of_examples():
    text = gpt3.seen(asked({("blank line", t, "sft"): (0.1, 0.3, 0.5, 0.8) for t in ("facts", "equations")}))
    assert "facts by sft from accuracy 0.10 [0.05, 0.15] to 0.80 [0.75, 0.85] with 16; equations by sft" in text
    assert text.endswith("GPT-3's rise with the number of examples shows.")


def test_gpt3_compares_the_log_probability_of_the_reference_where_no_answer_is_right():
    rows = asked({("space", "demonstrations", "sft"): (-3.0, -2.5, -2.0, -1.5)}, name="logprob")
    rows = [{**row, "accuracy": 0.0, "accuracy_low": 0.0, "accuracy_high": 0.0} for row in rows]
    assert gpt3.measure_of(rows, "demonstrations") == "logprob"
    assert "demonstrations by sft from logprob -3.00 [-3.05, -2.95] to -1.50" in gpt3.seen(rows)
    assert drawn(gpt3, rows) == 1


def test_gpt3_reads_the_metrics_of_its_evaluations(tmp_path):
    runs = Runs(tmp_path)
    for separator, v in zip(gpt3.SEPARATORS, gpt3.variants(), strict=True):
        folder = runs.folder(v) / "evaluate"
        folder.mkdir(parents=True)
        numbers = {"prompts": 9, "used": 1.0, **around(0.5).named("accuracy")}
        write_json(folder / "metrics.json", {"shots": {"facts": {"sft": {"1": numbers}}}, "sft": {"gold": 1.0}})
        write_json(folder / "stage.json", {"options": {}, "seconds": 1})
        assert separator in ("blank line", "space")
    rows = gpt3.measure(runs)
    assert [(row["separator"], row["task"], row["model"], row["shots"]) for row in rows] == [
        ("blank line", "facts", "sft", 1),
        ("space", "facts", "sft", 1),
    ]
    assert rows[0]["accuracy_low"] == pytest.approx(0.45) and rows[0]["prompts"] == 9
