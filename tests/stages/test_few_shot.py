"""Models that are asked with examples in the prompt: what fits, what counts as right, and what is refused."""

import json
import math
from typing import cast

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from rlhf import InputError
from rlhf.evaluate import mean_over_draws
from rlhf.rollout import Completion
from stages.common import few_shot
from stages.common.answer_options import EvaluateOptions
from stages.common.answers import Answerer
from stages.common.few_shot import Task, measure_shots
from tests.conftest import tiny_gpt2
from tests.pipeline import stage

ROWS = [{"prompt": f"a story about {number}", "completion": f" a fox {number}"} for number in range(1, 6)]
LONG = [{"prompt": "the quick brown fox " * 20, "completion": " yes"}]


@pytest.fixture
def model(tokenizer):
    return Answerer("tiny", "", cast(PreTrainedModel, tiny_gpt2().eval()), tokenizer)


def options(*shots, **others):
    return EvaluateOptions(shots=list(shots), **{"shot_draws": 2, "response_length": 8, **others})


def asked(model, monkeypatch, answer_to, task, chosen):
    """The metrics of a model that answers with these texts, and the prompts that it was asked."""
    prompts: list[str] = []

    def answers(policy, tokenizer, ids, **_):
        prompts.extend(tokenizer.decode(one) for one in ids)
        texts = [answer_to(prompt) for prompt in prompts]
        return [Completion(tokenizer(text).input_ids, text, True) for text in texts]

    monkeypatch.setattr(few_shot, "sample_completions", answers)
    return measure_shots([task], [model], chosen)[task.name]["tiny"], prompts


def test_a_right_answer_is_the_reference_alone_or_up_to_the_separator(model, monkeypatch):
    def answer_to(prompt):  # wrong for two of five prompts
        number = prompt[-1]
        return {"1": " a fox", "2": " a fox 2 and", "3": " A  fox 3"}.get(number, f" a fox {number}\n\na story")

    metrics, _ = asked(model, monkeypatch, answer_to, Task("t", ROWS, ROWS), options(0, 1))
    assert (metrics["0"]["accuracy"], metrics["1"]["accuracy"]) == pytest.approx((3 / 5, 3 / 5))
    assert metrics["0"]["prompts"] == 5


def test_a_right_answer_may_contain_the_separator(model, monkeypatch):
    rows = [{"prompt": f"a story about {n}", "completion": f" yes\n\n{n}"} for n in range(3)]
    metrics, _ = asked(model, monkeypatch, lambda prompt: f"yes\n\n{prompt[-1]}", Task("t", rows, rows), options(1))
    assert metrics["1"]["accuracy"] == 1


def test_a_probe_is_right_if_the_answer_begins_with_the_reference(model, monkeypatch):
    def answer_to(prompt):
        return f" a fox {prompt[-1]}" + (" and a dog" if prompt[-1] != "1" else "")

    task = Task("t", ROWS, ROWS, is_probe=True)
    metrics, _ = asked(model, monkeypatch, answer_to, task, options(0))
    assert metrics["0"]["accuracy"] == 1
    metrics, _ = asked(model, monkeypatch, lambda prompt: " dog", task, options(0))
    assert metrics["0"]["accuracy"] == 0


def test_prompts_have_the_examples_of_all_draws_and_the_number_that_fits_is_told(model, monkeypatch):
    metrics, prompts = asked(model, monkeypatch, lambda prompt: "", Task("t", ROWS, ROWS), options(0, 1, 2, 30))
    assert [metrics[shots]["used"] for shots in ("0", "1", "2")] == [0, 1, 2]
    assert 2 <= metrics["30"]["used"] <= 4  # of the four others
    examples = [prompt.split("\n\n") for prompt in prompts]
    pairs = {row["prompt"]: row["completion"] for row in ROWS}
    for *before, last in examples:
        assert last in pairs and len(set(before)) == len(before)
        for example in before:
            assert example in [prompt + pairs[prompt] for prompt in pairs if prompt != last]
    assert sum(len(parts) == 1 for parts in examples) == 5  # without examples there is one draw
    # one and two examples of two draws each; a prompt that both draws give is asked once
    assert 5 < sum(len(parts) == 2 for parts in examples) <= 10


def test_examples_that_do_not_fit_are_left_out_and_not_cut(model, monkeypatch):
    rows = [*ROWS, {"prompt": "the quick brown fox " * 6, "completion": " no"}]
    metrics, prompts = asked(model, monkeypatch, lambda prompt: "", Task("t", ROWS, rows), options(5, shot_draws=4))
    lengths = [len(ids) for ids in model.tokenizer(prompts).input_ids]
    answer = len(model.tokenizer(" a fox 1\n\n").input_ids)  # in the context of 64
    assert max(lengths) <= 64 - answer and metrics["5"]["used"] < 5
    whole = {row["prompt"] + row["completion"] for row in rows}
    assert all(set(prompt.split("\n\n")[:-1]) <= whole for prompt in prompts)


def test_the_log_probability_of_the_reference_is_that_of_transformers(model):
    metrics = measure_shots([Task("t", ROWS, ROWS)], [model], options(0))["t"]["tiny"]["0"]
    means = []
    for row in ROWS:
        prompt, whole = model.tokenizer([row["prompt"], row["prompt"] + row["completion"]]).input_ids
        labels = torch.tensor([[-100] * len(prompt) + whole[len(prompt) :]])
        with torch.no_grad():
            means.append(-model.policy(torch.tensor([whole]), labels=labels).loss.item())
    assert metrics["logprob"] == pytest.approx(np.mean(means), abs=1e-4)
    assert metrics["logprob_low"] < metrics["logprob"] < metrics["logprob_high"]


def test_the_same_options_give_the_same_numbers_and_another_seed_gives_others(model):
    first, again, other = (measure_shots([Task("t", ROWS, ROWS)], [model], options(1, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_chats_are_asked_with_turns_before_their_prompt(model, monkeypatch):
    rows = [
        {"prompt": [{"role": "user", "content": f"q {n}"}], "completion": [{"role": "assistant", "content": f"a {n}"}]}
        for n in range(3)
    ]
    metrics, (first, *_) = asked(model, monkeypatch, lambda prompt: "a 0", Task("t", rows, rows), options(1))
    assert metrics["1"]["accuracy"] == pytest.approx(1 / 3)
    assert first.count("q ") == 2 and first.count("a ") >= 1


def test_gold_of_answers_is_a_mean_without_those_that_have_none(model, monkeypatch):
    def gold(prompts, completions, **_):
        return [None if prompt.endswith("1") else float(prompt[-1]) for prompt in prompts]

    rows = [{"prompt": row["prompt"]} for row in ROWS]
    metrics, _ = asked(model, monkeypatch, lambda prompt: " yes", Task("t", rows, ROWS, gold=gold), options(0, 1))
    assert metrics["0"]["gold"] == metrics["1"]["gold"] == (2 + 3 + 4 + 5) / 4
    assert "accuracy" not in metrics["0"]


def test_gold_is_of_the_answer_up_to_the_separator_if_there_are_examples(model, monkeypatch):
    def gold(prompts, completions, ended, **_):
        assert all(ended)
        return [len(text) for text in completions]

    task = Task("t", [{"prompt": row["prompt"]} for row in ROWS], ROWS, gold=gold)
    metrics, _ = asked(model, monkeypatch, lambda prompt: " yes\n\nno", task, options(0, 1))
    assert (metrics["0"]["gold"], metrics["1"]["gold"]) == (len(" yes\n\nno"), len(" yes"))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task("t", ROWS, LONG), "no example of t fits into the context of tiny, 64 tokens"),
        (Task("t", LONG, ROWS), "no row of t fits into the context of every model"),
        (Task("t", ROWS[:1], ROWS[:1]), "no demonstration can be an example for t"),
    ],
)
def test_examples_or_prompts_that_never_fit_are_an_error(model, task, message):
    with pytest.raises(InputError, match=message):
        measure_shots([task], [model], options(1))


@pytest.mark.parametrize("number", [-1, 1.5, 1e9])
def test_a_number_of_examples_is_a_whole_number_from_zero(number):
    with pytest.raises(InputError, match="shots contains .*; each must be a whole number from 0 to 10,000"):
        options(number)


def test_the_interval_of_a_mean_over_draws_covers_prompts_and_draws():
    rng = np.random.default_rng(1)
    prompts = rng.normal(size=400)
    estimate = mean_over_draws(np.tile(prompts, (3, 1)))  # draws that agree
    width = 2 * 1.96 / math.sqrt(400)
    assert estimate.value == pytest.approx(prompts.mean())
    assert estimate.high - estimate.low == pytest.approx(width * prompts.std(), rel=0.1)
    # prompts that agree: the draws alone are resampled
    draws = mean_over_draws(rng.normal(size=(100, 4)))
    assert draws.high - draws.low == pytest.approx(2 * 1.96 / math.sqrt(400), rel=0.5)


def test_without_examples_the_numbers_are_those_of_the_other_metrics(run):
    few = ("--count", 12, "--best_of", 0, "--models", "pretrain", "sft")
    output = stage("evaluate", *few, "--shots", 0, 1, "--shot_draws", 2, run=run)
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    for model in ("pretrain", "sft"):
        assert metrics["shots"]["prompts"][model]["0"]["gold"] == pytest.approx(metrics[model]["gold_greedy"])
        assert metrics["shots"]["facts"][model]["1"]["used"] == 1
    report = (run / "evaluate" / "report.md").read_text()
    for text in (report, output):
        assert sum("| equations " in line for line in text.splitlines()) >= 4
    stage("evaluate", *few, run=run)
    assert "shots" not in json.loads((run / "evaluate" / "metrics.json").read_text())


def test_a_run_without_demonstrations_can_be_asked_without_examples_only(run):
    (run / "data" / "demonstrations.jsonl").unlink()
    output = stage("evaluate", "--count", 2, "--models", "sft", "--best_of", 0, "--shots", 1, run=run, status=2)
    assert "no demonstrations at" in output and "demonstrations.jsonl to draw examples from" in output
