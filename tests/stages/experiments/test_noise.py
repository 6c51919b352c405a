"""The experiment `noise`: label noise and completions of other prompts, on rows written by hand."""

import json

import pytest

from rlhf import InputError
from stages.experiments import noise
from stages.experiments.output import draw_picture
from stages.experiments.variants import SEEDS, Runs


def row(label_noise, swapped, accuracy, gold, distinct):
    """A row of PPO, with intervals of 0.01 to both sides."""
    made = {"model": "PPO", "noise": float(label_noise), "swapped": float(swapped), "accuracy_swapped": 0.9}
    lost = {"accuracy_lost": 0.7 - accuracy, "gold_lost": 6.0 - gold}
    for name, number in {"accuracy": accuracy, "gold": gold, "distinct": distinct, **lost}.items():
        made |= {name: number, f"{name}_low": number - 0.01, f"{name}_high": number + 0.01}
    return made


def rows(accuracy=0.7, gold=6.0, distinct=0.9):
    """A table with these numbers at the largest noise, and this share without completions of other prompts."""
    sft = {"model": "SFT", "gold": 4.5, "distinct": 0.9, "distinct_low": 0.9, "distinct_high": 0.9}
    usual = [row(0, 1, 0.7, 6.0, 0.9), row(1.5, 1, 0.7, 6.0, 0.9)]
    return [sft, *usual, row(5, 1, accuracy, gold, 0.9), row(1.5, 0, 0.7, 6.0, distinct)]


def test_the_usual_setting_uses_the_reward_model_of_the_finished_run():
    made = noise.variants()
    assert len(set(made)) == len({v.name for v in made}) == len(made) == 4 * len(SEEDS)
    assert [v.parent for v in noise.setting(*noise.USUAL)] == [None] * len(SEEDS)
    chains = {v.parent.parent.arguments for v in made if v.parent}
    assert chains == {"--noise 0", "--noise 5", "--swapped 0"}
    assert all(v.parent.stage == "reward" and not v.parent.options for v in made if v.parent)


def comparisons(folder, **options):
    """A run whose comparisons were made with these options."""
    (folder / "comparisons").mkdir()
    record = {"options": options, "seconds": 1.0}
    (folder / "comparisons" / "stage.json").write_text(json.dumps(record), encoding="utf-8")
    return Runs(folder)


def test_a_run_with_other_rankings_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"was made with noise 1.5 and swapped 0; the experiment compares with 1.5 and 1"
    ):
        noise.prepare(comparisons(tmp_path, noise=1.5, swapped=0))


def test_a_run_with_the_usual_rankings_is_taken(tmp_path):
    noise.prepare(comparisons(tmp_path, noise=1.5, swapped=1))


def test_answers_that_differ_in_names_and_numbers_alone_have_one_form():
    assert len(set(noise.forms([" Dear Ann! See you, Bob.", "Dear Zoe! See you, Tom."]))) == 1
    assert len(set(noise.forms(["2 + 3 = 5.", "10 + 4 = 14."]))) == 1
    assert len(set(noise.forms(["A cat ran.", "A dog ran."]))) == 2


def test_shares_are_of_all_prompts_and_means_over_seeds():
    one_answer, all_differ = ["It is a cat."] * 4, ["a", "b", "c", "d"]
    assert noise.shares([one_answer, all_differ]) == {
        "distinct": (0.25 + 1.0) / 2,
        "distinct_low": 0.25,
        "distinct_high": 1.0,
        "commonest": (1.0 + 0.25) / 2,
    }


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"accuracy": 0.6, "gold": 5.0}, "both fall"),
        ({"accuracy": 0.6}, "the accuracy falls, gold does not clearly"),
        ({"gold": 5.0}, "gold falls, the accuracy does not clearly"),
        ({}, "neither falls clearly"),
    ],
)
def test_the_verdict_on_noise_follows_the_intervals(changed, verdict):
    first, _ = noise.seen(rows(**changed)).split(". ")
    assert "one reward model each, the accuracy goes from 0.700 to" in first and first.endswith(verdict)


def test_repeated_answers_without_completions_of_other_prompts_are_told():
    assert noise.seen(rows(distinct=0.1)).endswith("0.10 of all in place of 0.90: the policy repeats answers more.")


def test_answers_as_distinct_as_before_are_told_as_no_clear_change():
    _, second = noise.seen(rows(distinct=0.9)).split(". ")
    assert second.endswith("the policy does not clearly repeat answers more.")


def test_the_picture_is_drawn(tmp_path):
    draw_picture(noise, rows(distinct=0.2), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
