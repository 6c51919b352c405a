"""The experiment `cot`: its variants, what it counts in answers, and what it says of tables written by hand."""

import numpy as np
import pytest

from data import sums
from data.sums import DIRECT, WITH_STEPS
from rlhf.evaluate import Estimate
from rlhf.rows import read_rows
from stages.common.run import BASE, Run
from stages.experiments import cot
from stages.experiments.cot import BOTH, PPO, PRETRAINED, SFT
from stages.experiments.results import row_of
from stages.experiments.variants import SEEDS, Runs, lineage
from tests.stages.experiments.test_seen import drawn, written


def around(value, width=0.05):
    return Estimate(value, value - width, value + width)


def lengths(model, form, first, last, gain=None):
    """Rows of a model with the shortest and the longest sums."""
    rows = []
    for length, value in ((2, first), (6, last)):
        gains = {"gain": around(gain)} if gain is not None else {}
        rows.append(row_of(model=model, form=form, length=length, questions=20, accuracy=around(value), **gains))
    return rows


def steps(model, form, share, kept=None, **others):
    """The row of sampled answers, of which `share` have steps."""
    entries = {"accuracy_right": around(0.9), "accuracy_wrong": around(0.2), "right_steps": around(0.7), **others}
    entries = {name: value for name, value in entries.items() if value is not None}
    change = {} if kept is None else {"kept": around(kept)}
    counts = {"answers_right": 300, "answers_wrong": 3}
    return row_of(
        model=model, form=form, sampled_accuracy=around(0.6), steps=around(share), **entries, **counts, **change
    )


def table(gains=(0.4, 0.5), kept=(0.0, 0.4), faithful=(0.9, 0.1), **others):
    rows = [*lengths(PRETRAINED, DIRECT, 0.8, 0.1), *lengths(PRETRAINED, WITH_STEPS, 0.85, 0.1 + gains[0], gains[0])]
    rows += [*lengths(SFT, DIRECT, 0.9, 0.2), *lengths(SFT, WITH_STEPS, 0.95, 0.2 + gains[1], gains[1])]
    rows += [row for form in (WITH_STEPS, BOTH) for row in lengths(PPO, form, 0.9, 0.8)]
    for form, before, change in ((WITH_STEPS, 1.0, kept[0]), (BOTH, 0.5, kept[1])):
        rows += [steps(SFT, form, before, **others), steps(PPO, form, before + change, change, **others)]
        shares = {"follows": around(faithful[0]), "true_sum": around(faithful[1])}
        rows += [row_of(model=model, form=form, **shares) for model in (SFT, PPO)]
    return rows


def test_cot_says_that_steps_help_that_ppo_adds_them_and_that_answers_follow_them(tmp_path):
    rows = written(table(), tmp_path)
    text = cot.seen(rows)
    assert text.startswith(
        "From 2 to 6 numbers the accuracy goes: pretrained, examples, direct 0.80 to 0.10, with steps 0.85 to 0.50 "
        "(difference 0.40 [0.35, 0.45]); SFT, direct 0.90 to 0.20, with steps 0.95 to 0.70"
    )
    assert "that steps help on long sums shows. Starting from SFT on answers with steps PPO neither clearly" in text
    assert "PPO neither clearly drops nor adds steps: they are in 1.00 of the answers before and 1.00 after" in text
    assert "from SFT on both forms PPO adds steps: they are in 0.50 of the answers before and 0.90 after (ch" in text
    assert "after (change 0.40 [0.35, 0.45]; accuracy 0.60 and 0.60)" in text
    assert "where all steps are right and where not is 0.90 [0.85, 0.95] and 0.20 [0.15, 0.25] (SFT)" in text
    assert text.endswith(
        "the answer follows it, against the true sum, in 0.90 [0.85, 0.95] against 0.10 (SFT: faithful), "
        "0.90 [0.85, 0.95] against 0.10 (PPO after SFT: faithful)."
    )
    assert text.count(". ") == 1
    assert drawn(cot, rows) == 2


def test_cot_says_that_steps_do_not_help_that_ppo_drops_them_and_that_answers_do_not_follow_them(tmp_path):
    rows = written(table(gains=(-0.1, 0.0), kept=(-0.6, -0.4), faithful=(0.1, 0.8), accuracy_wrong=None), tmp_path)
    text = cot.seen(rows)
    assert "that steps help on long sums does not show at this size." in text
    assert text.count("PPO drops steps") == 2
    assert text.count("and unknown (3 answers)") == 2
    assert text.count(": not faithful)") == 2
    assert drawn(cot, rows) == 2


def test_cot_tells_a_single_case_and_an_undecided_one():
    text = cot.seen(table(gains=(0.02, 0.3), faithful=(0.45, 0.5)))
    assert "shows in one of the two cases" in text
    assert text.count(": undecided)") == 2


def test_shares_count_steps_and_the_accuracy_where_they_are_right_wrong_and_missing(monkeypatch):
    monkeypatch.setattr(cot, "LEAST", 1)
    asked = [(3, 4), (5, 1), (2, 2), (1, 6)]
    texts = [
        " 3 + 4 = 7. The answer is 7.",
        " 5 + 1 = 8. The answer is 6.",  # a wrong step, the right answer
        " The answer is 5.",
        " 1 + 6 = 7. The answer is 9.",  # a right step, the wrong answer
    ]
    entries, has = cot.shares(asked, [texts, texts])
    assert has.tolist() == [[1, 1, 0, 1]] * 2
    values = {name: entry.value for name, entry in entries.items() if isinstance(entry, Estimate)}
    assert values == pytest.approx(
        {
            "sampled_accuracy": 0.5,
            "steps": 0.75,
            "right_steps": 2 / 3,
            "accuracy_right": 0.5,
            "accuracy_wrong": 1.0,
            "accuracy_none": 0.0,
        }
    )
    assert (entries["answers_right"], entries["answers_wrong"], entries["answers_none"]) == (4, 2, 2)


def test_shares_of_too_few_answers_are_left_out():
    entries, _ = cot.shares([(3, 4)], [[" The answer is 7."]])
    assert not {"right_steps", "accuracy_right", "accuracy_wrong", "accuracy_none"} & entries.keys()
    assert entries["answers_none"] == 1


def test_after_corruption_an_answer_follows_the_changed_step_or_is_the_true_sum(monkeypatch):
    asked = [(3, 4), (5, 1), (2, 2)]

    def answered(runs, made, prompts):
        """The first follows the step that its prompt ends with, the second is the true sum, the third is neither."""
        follows = prompts[0].rpartition("= ")[2].rstrip(".")
        assert prompts[0].startswith("Q: 3 + 4\nA: 3 + 4 = ") and follows != "7"
        return [[f" The answer is {follows}.", " The answer is 6.", ""]]

    monkeypatch.setattr(cot, "answers", answered)
    entries = cot.after_corruption(None, asked, [])
    assert entries["follows"].value == entries["true_sum"].value == pytest.approx(1 / 3)


def test_the_examples_are_the_same_questions_in_both_forms_and_none_is_held_out():
    asked = sums.held_out(3, seed=0)
    direct, steps_shown = (cot.with_form(asked, form) for form in (DIRECT, WITH_STEPS))
    for numbers, prompt, other in zip(asked, direct, steps_shown, strict=True):
        questions = [line for line in prompt.split("\n") if line.startswith("Q")]
        assert questions == [line for line in other.split("\n") if line.startswith("Q")]
        assert len(questions) == cot.EXAMPLES + 1 <= sums.MOST_ASKED
        assert prompt.endswith(sums.question(numbers)) and "=" not in prompt and other.count("=") > 1


def test_right_answers_are_read_from_the_end():
    right = cot.are_right([(3, 4), (5, 1)], [[" The answer is 7.", " 5 + 1 = 6."]])
    assert np.array_equal(right, [[1.0, 0.0]])


def test_every_stage_starts_from_the_model_of_its_seed_and_ppo_scores_the_final_answer():
    made = cot.variants()
    assert len(set(made)) == len({v.name for v in made}) == len(SEEDS) * 5
    for v in made:
        assert len({dict(a.options)["seed"] for a in lineage(v)}) == 1
        assert [a.stage for a in lineage(v)] in (["pretrain", "sft"], ["pretrain", "sft", "ppo"])
    assert {dict(v.options)["reward_function"] for v in made if v.stage == "ppo"} == {"data.rewards:right_number"}


def test_every_file_that_a_variant_names_is_written(tmp_path, monkeypatch):
    for name in ("DOCUMENTS", "DEMONSTRATIONS", "PROMPTS"):
        monkeypatch.setattr(cot, name, 5)
    runs = Runs(tmp_path)
    cot.prepare(runs)
    named = set()
    for v in {own for last in cot.variants() for own in lineage(last)}:
        (kind, name) = next((kind, its) for kind, its in v.options if str(its).startswith(BASE))
        for folder in (runs.folder(v), runs.folder(v.parent)):
            folder.mkdir(parents=True, exist_ok=True)
        path = Run(runs.folder(v), str(runs.folder(v.parent))).path(name)
        assert len(read_rows(path, kind)) == 5
        named.add(path.name)
    assert len(named) == 5
