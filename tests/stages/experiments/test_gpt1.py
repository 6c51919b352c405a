"""The experiment `gpt1` on tables and predictions written by hand."""

import json

import pytest

from rlhf import InputError
from stages.experiments import gpt1
from stages.experiments.output import draw_picture, read_table, write_table
from stages.experiments.variants import SEEDS, Runs


def row(task, start, lm_coef, accuracy, **numbers):
    """A row of the table with intervals of 0.02 to both sides."""
    made = {"task": task, "start": start, "lm_coef": lm_coef}
    for name, number in {"accuracy": accuracy, **numbers}.items():
        made |= {name: number}
        if name in ("accuracy", "gain", "lm_gain"):
            made |= {f"{name}_low": number - 0.02, f"{name}_high": number + 0.02}
    return made


def table(gain, lm_gain, by_layer=(0.6, 0.7, 0.8)):
    """A table in which scratch has 0.5, and every task gains as much."""
    rows = []
    for task in gpt1.TASKS:
        known = {"majority": 0.4}
        rows += [
            row(task, gpt1.PRETRAINED, 0.5, 0.5 + gain, **known, layers=3.0, gain=gain, lm_gain=lm_gain),
            row(task, gpt1.PRETRAINED, 0.0, 0.5 + gain - lm_gain, **known, layers=3.0, gain=gain - lm_gain),
            row(task, gpt1.SCRATCH, 0.5, 0.5, **known, lm_gain=0.0),
            row(task, gpt1.SCRATCH, 0.0, 0.5, **known),
        ]
        if task in gpt1.LAYERED:
            rows += [row(task, gpt1.PRETRAINED, 0.5, a, layers=float(n), gain=0.1) for n, a in enumerate(by_layer)]
    return rows


def test_the_variants_of_a_task_differ_in_one_thing():
    made = gpt1.variants()
    assert len({v.name for v in made}) == len(made) == len(SEEDS) * (4 * 4 + 3 * 3)
    for v in made:
        options = dict(v.options)
        assert v.place == f"task/{options['task']}" and options["rows"] == gpt1.ROWS[options["task"]]
        assert not ("layers" in options and ("scratch" in options or options["lm_coef"] == 0))


def test_the_sentences_tell_which_tasks_gain():
    text = gpt1.seen(table(0.3, 0.05))
    assert "topic 0.80 [0.78, 0.82] against 0.50 [0.48, 0.52]" in text
    assert "pretraining helps on topic and entailment and similarity and choice" in text
    assert "λ = 0.5 in place of 0 helps on topic" in text and "makes no clear difference from scratch" in text
    assert "topic 0.60, 0.70, 0.80, 0.80 (the layers help)" in text


def test_the_sentences_tell_a_loss_and_that_nothing_is_clear():
    assert "pretraining hurts on topic" in gpt1.seen(table(-0.1, 0.0))
    text = gpt1.seen(table(0.01, 0.0, (0.5, 0.5, 0.51)))
    assert "pretraining makes no clear difference" in text
    assert "topic 0.50, 0.50, 0.51, 0.51 (no clear gain)" in text


def test_the_table_is_that_of_the_predictions(tmp_path, monkeypatch):
    right = {gpt1.PRETRAINED: 9, gpt1.SCRATCH: 5}  # of ten held-out rows
    for v in gpt1.variants():
        start = gpt1.SCRATCH if "scratch" in dict(v.options) else gpt1.PRETRAINED
        folder = tmp_path / "experiments" / "variants" / v.name / v.place
        folder.mkdir(parents=True)
        rows = [{"label": "a", "predicted": "a" if i < right[start] else "b"} for i in range(10)]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        record = {"options": {}, "seconds": 1.0, "metrics": {"majority": 0.25}}
        (folder / "stage.json").write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.setattr(gpt1, "layer_count", lambda runs: 3)
    rows = gpt1.measure(Runs(tmp_path))
    assert len(rows) == 4 * 4 + 3 * 3
    for made in rows:
        assert made["accuracy"] == (0.5 if made["start"] == gpt1.SCRATCH else 0.9)
        assert ("gain" in made) == (made["start"] == gpt1.PRETRAINED)
        assert made.get("gain", 0.4) == pytest.approx(0.4) and made.get("lm_gain", 0) == 0
    write_table(tmp_path / "table.csv", rows)
    assert "pretraining helps on topic" in gpt1.seen(read_table(tmp_path / "table.csv"))


def test_a_model_with_too_few_layers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(gpt1, "layer_count", lambda runs: 2)
    with pytest.raises(InputError, match="has a model of 2 layers: lower LAYERS"):
        gpt1.prepare(Runs(tmp_path))


def test_the_picture_is_drawn(tmp_path):
    draw_picture(gpt1, table(0.3, 0.05), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
