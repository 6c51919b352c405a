"""The experiment `shuffled`: pairs in one batch element or shuffled, on rows written by hand."""

import json
import math

import numpy as np
import pytest
import torch

from rlhf import InputError
from rlhf.reward import ranking_loss
from stages.experiments import shuffled
from stages.experiments.output import draw_picture
from stages.experiments.variants import SEEDS, Runs

RANKING = {"prompt": "P", "completions": ["a", "b", "c"], "ranks": [1, 0, 1], "ended": [True, False, True]}


def row(form, epoch, loss=0.6, **others):
    """A row of the table, with intervals of 0.01 to both sides."""
    numbers = {"train_accuracy": 0.7, "accuracy": 0.6, "loss": loss, **others}
    if form == "shuffled":
        numbers = {"lost": 0.0, "fitted": 0.0, **numbers}
    made = {"form": form, "epoch": float(epoch), **numbers}
    for name, number in numbers.items():
        made |= {f"{name}_low": number - 0.01, f"{name}_high": number + 0.01}
    return made


OVERFITTING = [
    row("one element", 1, loss=0.66, risen=0.06),
    row("one element", 2, loss=0.60),
    row("shuffled", 1, loss=0.61),
    row("shuffled", 2, loss=0.80, risen=0.19, train_accuracy=0.9, fitted=0.2, accuracy=0.55, lost=0.05),
]
EQUAL = [
    row("one element", 1, loss=0.60),
    row("one element", 2, loss=0.605, risen=0.005),
    row("shuffled", 1, loss=0.61, risen=0.01),
    row("shuffled", 2, loss=0.60),
]


def test_a_ranking_gives_its_pairs_better_first_and_none_for_a_tie():
    assert shuffled.pairs_of(RANKING) == [
        {"prompt": "P", "chosen": "b", "rejected": "a", "ended": [False, True]},
        {"prompt": "P", "chosen": "b", "rejected": "c", "ended": [False, True]},
    ]


def finished_run(folder, rankings):
    """A run whose comparisons are these rankings."""
    (folder / "comparisons").mkdir()
    lines = "".join(json.dumps(ranking) + "\n" for ranking in rankings)
    (folder / "comparisons" / "train.jsonl").write_text(lines, encoding="utf-8")
    (folder / "comparisons" / "stage.json").write_text("{}", encoding="utf-8")
    return Runs(folder)


def test_both_forms_hold_the_same_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(shuffled, "RANKINGS", 2)
    monkeypatch.setattr(shuffled, "COMPLETIONS", 3)
    whole = [{"prompt": p, "completions": [f"{p}0", f"{p}1", f"{p}2"], "ranks": [0, 1, 2]} for p in "XYZ"]
    shuffled.prepare(finished_run(tmp_path, [RANKING, *whole]))
    read = {
        form: [json.loads(line) for line in (tmp_path / "experiments/shuffled" / file).read_text().splitlines()]
        for form, file in shuffled.FORMS.items()
    }
    assert [ranking["prompt"] for ranking in read["one element"]] == ["X", "Y"]  # the first has a tie
    assert sorted((pair["chosen"], pair["rejected"]) for pair in read["shuffled"]) == [
        (f"{p}{i}", f"{p}{j}") for p in "XY" for i, j in ((0, 1), (0, 2), (1, 2))
    ]


def test_too_few_rankings_are_an_error_before_anything_is_trained(tmp_path):
    with pytest.raises(InputError, match=r"0 rankings of 5 completions without ties; the experiment takes 1,000"):
        shuffled.prepare(finished_run(tmp_path, [RANKING]))


def test_a_step_has_eighty_pairs_in_both_forms_and_each_epoch_a_checkpoint():
    made = shuffled.variants()
    assert len(set(made)) == len({v.name for v in made}) == len(made) == 2 * len(SEEDS)
    options = [dict(v.options) for v in made]
    assert {o["batch_size"] for o in options} == {8, 80}
    assert all(o["save_steps"] == 125 and o["save_total_limit"] == o["epochs"] == 4 for o in options)
    assert all(o["comparisons"].startswith("<base>/experiments/shuffled/") for o in options)
    assert not any("<" in v.name for v in made)


def test_losses_of_rankings_have_the_mean_of_the_ranking_loss():
    scores, ranks = torch.tensor([[1.0, 0.0, 0.5], [0.2, 0.1, 0.0]]), torch.tensor([[0.0, 1, 2], [1, 0, math.nan]])
    (by_ranking,) = shuffled.losses([scores], ranks)
    assert by_ranking[1] == pytest.approx(math.log1p(math.exp(0.1)))  # one pair, wrong by 0.1
    assert np.mean(by_ranking) == pytest.approx(ranking_loss(scores, ranks).item())


def test_overfitting_of_shuffled_pairs_is_told():
    text = shuffled.seen(OVERFITTING)
    assert (
        "shuffled pairs fit the training pairs better (0.900 against 0.700), and lose accuracy on held-out pairs"
        in text
    )
    assert "of one element per prompt is lowest after the last epoch, 0.600" in text
    assert "of shuffled pairs rises from 0.610 after epoch 1 to 0.800" in text


def test_no_difference_is_told_as_none():
    text = shuffled.seen(EQUAL)
    assert "do not clearly fit the training pairs better" in text and "do not clearly change the accuracy" in text
    assert "of one element per prompt does not clearly rise, from 0.600 after epoch 1 to 0.605" in text


def test_a_gain_of_shuffled_pairs_is_told():
    assert "gain accuracy" in shuffled.seen([*EQUAL[:3], row("shuffled", 2, lost=-0.05)])


@pytest.mark.parametrize("rows", [OVERFITTING, EQUAL])
def test_there_are_two_sentences_and_a_picture(rows, tmp_path):
    text = shuffled.seen(rows)
    assert text.count(". ") == 1 and text.endswith(".")
    draw_picture(shuffled, rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
