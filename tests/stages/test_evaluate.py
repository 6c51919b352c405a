"""make evaluate writes the rows behind its metrics, asks judges, and answers at several temperatures."""

import json
import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf import InputError
from stages.common.answer_options import EvaluateOptions
from stages.common.parsing import check_values
from stages.common.reward_scores import RewardScores
from tests.pipeline import TOY, stage

JUDGES = """
def quality(prompts, completions):
    return [len(text) for text in completions]

def longer(prompts, a, b):
    return [0.5 if len(x) == len(y) else len(x) > len(y) for x, y in zip(a, b)]

def first(prompts, a, b):
    return [1] * len(a)

def wrong(prompts, a, b):
    return [2] * len(a)
"""


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def judges(tmp_path):
    (tmp_path / "judges").mkdir()
    (tmp_path / "judges" / "evaluate_judges.py").write_text(JUDGES)
    return tmp_path / "judges"


def metrics_of(run):
    return json.loads((run / "evaluate" / "metrics.json").read_text())


def test_the_metrics_are_means_of_the_rows_of_answers(run):
    stage("evaluate", "--temperatures", 0.5, run=run)
    rows, metrics = read(run / "evaluate" / "answers.jsonl"), metrics_of(run)
    prompts = len(read(run / "data" / "prompts_test.jsonl"))
    for name in ("pretrain", "sft", "ppo"):
        for suffix, temperature in {"": 1.0, "_greedy": 0.0, "_t0.5": 0.5}.items():
            own = [row for row in rows if row["model"] == name and row["temperature"] == temperature]
            assert len(own) == prompts
            for column in ("gold", "score"):
                mean = sum(row[column] for row in own) / prompts
                assert mean == pytest.approx(metrics[name][f"{column}{suffix}"], abs=1e-5)
            assert all((row["kl"] is None) == (name == "pretrain" or not temperature) for row in own)
            if name == "sft" and temperature:
                assert {row["kl"] for row in own} == {0.0}
            if name == "ppo" and temperature:
                assert sum(row["kl"] for row in own) / prompts == pytest.approx(metrics["ppo"][f"kl{suffix}"])
    chosen = [row for row in rows if row["model"] == "best_of_n"]
    assert len(chosen) == prompts
    assert {row["kl"] for row in chosen} == {None}
    assert sum(row["score"] for row in chosen) / prompts == pytest.approx(metrics["best_of_n"]["score"], abs=1e-5)
    assert len(rows) == 10 * prompts
    columns = "prompt task model temperature completion finished length score gold kl"
    assert {tuple(row) for row in rows} == {tuple(columns.split())}


def test_the_scores_of_rankings_are_logits_of_the_reward_model_without_this_project(run):
    stage("evaluate", "--count", 2, "--models", "sft", run=run)
    rows = read(run / "evaluate" / "rankings.jsonl")
    model = AutoModelForSequenceClassification.from_pretrained(run / "reward").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "reward")
    config = json.loads((run / "reward" / "config.json").read_text())
    assert (config["score_mean"], config["score_std"]) != (0, 1)
    held_out = read(run / "comparisons" / "test.jsonl")
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in held_out]
    for row, ranking in zip(rows[:3], held_out, strict=False):
        for name in ("completions", "ranks", "quality", "swapped"):
            assert row[name] == ranking[name]
        for i, (text, ended) in enumerate(zip(ranking["completions"], ranking["ended"], strict=True)):
            prompt, reply = (tokenizer(part, add_special_tokens=False).input_ids for part in (row["prompt"], text))
            reply += [tokenizer.eos_token_id] * ended
            with torch.no_grad():
                logit = model(torch.tensor([prompt + reply])).logits.item()
            assert row["scores"][i] == pytest.approx(logit, abs=1e-4)
            assert row["lengths"][i] == len(reply)


def test_a_reward_model_that_reads_text_gives_rankings_the_same_scores_and_lengths(toy_run):
    rows = read(toy_run / "comparisons" / "test.jsonl")[:4]
    by_ids, by_text = (RewardScores("reward", str(toy_run / "reward"), None, str(toy_run / "sft")) for _ in range(2))
    by_text.tokenizer = None
    for one, other in zip(by_ids.of_rankings(rows), by_text.of_rankings(rows), strict=True):
        assert other["scores"] == pytest.approx(one["scores"], abs=1e-4)
        assert other["lengths"] == one["lengths"]


@pytest.mark.slow
def test_no_rankings_are_written_without_a_reward_model(run):
    (run / "reward").rename(run / "reward-elsewhere")
    few = ("--count", 2, "--models", "sft", "--gold", "none")
    stage("evaluate", *few, run=run)
    assert not (run / "evaluate" / "rankings.jsonl").exists()
    assert {row["score"] for row in read(run / "evaluate" / "answers.jsonl")} == {None}
    stage("evaluate", *few, "--reward_model", run / "reward-elsewhere", run=run)
    assert (run / "evaluate" / "rankings.jsonl").exists()


@pytest.mark.slow
def test_a_judge_is_asked_beside_gold_at_every_temperature(run, judges):
    options = ("--gold", "evaluate_judges:quality", "--judge", "evaluate_judges:longer", "--temperatures", 0.5)
    stage("evaluate", *options, run=run, modules=[judges])
    metrics = metrics_of(run)
    for suffix in ("", "_greedy", "_t0.5"):
        # both prefer the longer answer
        for name in ("win_rate", "ties", "win_rate_length_controlled"):
            for end in ("", "_low", "_high"):
                assert metrics["ppo"][f"{name}{suffix}{end}"] == metrics["ppo"][f"judge_{name}{suffix}{end}"]
        assert metrics["ppo"][f"judge_disagreement{suffix}"] == 0
    assert not any("judge" in name for name in metrics["sft"])
    answers = read(run / "evaluate" / "answers.jsonl")
    assert all(row["gold"] == len(row["completion"]) for row in answers)


def test_a_judge_needs_no_gold_and_its_order_bias_is_told(run, judges):
    few = ("--count", 3, "--best_of", 0, "--models", "sft", "ppo", "--gold", "none")
    stage("evaluate", *few, "--judge", "evaluate_judges:first", run=run, modules=[judges])
    ppo = metrics_of(run)["ppo"]
    assert (ppo["judge_win_rate"], ppo["judge_disagreement"]) == (0.5, 1)
    assert "win_rate" not in ppo and math.isfinite(ppo["judge_disagreement_low"])
    output = stage("evaluate", *few, "--judge", "evaluate_judges:wrong", run=run, modules=[judges], status=2)
    assert "wrong returned 2; it must return a probability" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judge": "folder/model"}, "judge is 'folder/model'; a pairwise judge is a Python function"),
        ({"judge": "no_such_module:f"}, "no module no_such_module"),
        ({"temperatures": [0.5, 200]}, "temperatures contains 200; each must be from 0.01 to 100, or 0 for greedy"),
        ({"reward_model": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_impossible_options_are_refused_before_a_model_answers(options, message):
    with pytest.raises(InputError, match=message):
        check_values(EvaluateOptions(recipe=TOY, **options))
