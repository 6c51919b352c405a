"""PPO is evaluated on held-out prompts while it trains; the evaluation changes nothing, and may choose the weights."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
from transformers import AutoModelForCausalLM

from rlhf import InputError
from rlhf.evaluate import perplexity
from rlhf.rows import read_rows
from rlhf.tokens import load_tokenizer, text_dataset
from stages.common.held_out import HeldOut, batches
from tests.interrupted import SAVING, kill_at_step
from tests.pipeline import record, stage

EVALUATED = ("--eval_steps", "2", "--eval_count", "9")


@pytest.fixture(scope="module")
def evaluated(toy_run, tmp_path_factory):
    """The toy run with validation prompts, and its PPO evaluated every two of its three steps."""
    run = tmp_path_factory.mktemp("held_out") / "toy"
    shutil.copytree(toy_run, run)
    stage("data", "--validation_rows", "10", run=run)
    stage("ppo", *EVALUATED, run=run)
    return run


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def prompts_of(run, name):
    return {row["prompt"] for row in rows_of(run / "data" / f"{name}.jsonl")}


def test_validation_prompts_are_new(evaluated):
    validation = prompts_of(evaluated, "prompts_validation")
    assert len(rows_of(evaluated / "data" / "prompts_validation.jsonl")) == 10
    assert not validation & (prompts_of(evaluated, "prompts") | prompts_of(evaluated, "prompts_test"))


@pytest.mark.parametrize("name", ["text", "text_test", "demonstrations", "prompts", "prompts_test", "probes"])
def test_validation_prompts_change_no_other_rows(evaluated, toy_run, name):
    path = f"data/{name}.jsonl"
    assert (evaluated / path).read_bytes() == (toy_run / path).read_bytes()


def test_evaluations_do_not_change_the_policy(evaluated, toy_run):
    for file in ("model.safetensors", "value_model/model.safetensors"):
        assert (evaluated / "ppo" / file).read_bytes() == (toy_run / "ppo" / file).read_bytes()


def test_the_log_has_evaluations_before_the_first_step_at_each_interval_and_after_the_last(evaluated):
    log = {row["step"]: row for row in rows_of(evaluated / "ppo" / "log.jsonl")}
    assert list(log) == [0, 1, 2, 3]
    assert [step for step, row in log.items() if "held_out/gold" in row] == [0, 2, 3]
    assert log[0]["held_out/kl"] == 0 and log[3]["held_out/kl"] != 0


def test_the_rows_of_an_evaluation_have_the_numbers_of_its_means(evaluated):
    log = {row["step"]: row for row in rows_of(evaluated / "ppo" / "log.jsonl")}
    records = rows_of(evaluated / "ppo" / "held_out.jsonl")
    assert [row["step"] for row in records] == [0, 2, 3]
    for row in records:
        assert len(row["completions"]) == len(row["score"]) == 9
        for name in ("score", "gold", "kl", "length"):
            mean = sum(row[name]) / 9
            assert math.isclose(mean, log[row["step"]][f"held_out/{name}"], rel_tol=1e-6, abs_tol=1e-9)


def test_the_perplexity_is_that_of_the_saved_model_on_held_out_text(evaluated):
    model = AutoModelForCausalLM.from_pretrained(evaluated / "ppo").eval()
    tokenizer = load_tokenizer(evaluated / "ppo")
    documents = text_dataset(read_rows(evaluated / "data" / "text_test.jsonl", "text")[:9], tokenizer, 128)["input_ids"]
    expected = perplexity(model, documents, tokenizer.pad_token_id)
    assert math.isclose(rows_of(evaluated / "ppo" / "log.jsonl")[-1]["held_out/perplexity"], expected, rel_tol=1e-5)


@pytest.mark.slow
def test_the_best_weights_are_those_of_the_evaluation_with_the_highest_gold(evaluated, tmp_path):
    run = tmp_path / "toy"
    shutil.copytree(evaluated, run)
    (tmp_path / "judge.py").write_text(
        "from itertools import count\ncalls = count()\n"
        # each evaluation has one call: before step 1, after step 2 and after step 3; training has one per step
        "def judge(prompts, completions):\n"
        "    number = next(calls)\n"
        "    return [float({0: 9, 3: 5, 5: 1}.get(number, 0))] * len(prompts)\n"
    )
    gold = ("--gold", "judge:judge", "--keep", "best")
    stage("ppo", *EVALUATED, *gold, run=run, modules=[tmp_path])
    assert [row.get("held_out/gold") for row in rows_of(run / "ppo" / "log.jsonl")] == [9, None, 5, 1]
    assert record(run, "ppo")["kept"] == {"step": 2, "metric": "gold", "value": 5.0}
    last = (evaluated / "ppo" / "model.safetensors").read_bytes()
    assert (run / "ppo" / "model.safetensors").read_bytes() != last
    # PPO of two steps with the schedule of three ends with the same weights
    saved = ("--save_steps", "1", "--save_minutes", "none", "--save_total_limit", "9")
    stage("ppo", *EVALUATED, *saved, run=run)
    second = run / "ppo" / "checkpoints" / "step-0000002" / "model.safetensors"
    kept = (run / "ppo.previous" / "model.safetensors").read_bytes()
    assert kept == second.read_bytes()


def test_an_evaluation_whose_gold_is_unknown_does_not_replace_one_with_gold():
    held_out = HeldOut.__new__(HeldOut)
    held_out.options, held_out.best = SimpleNamespace(keep_max_kl=None), {}
    held_out.trainer = SimpleNamespace(weights=dict)
    steps = ({"score": 9.0}, {"score": 9.0, "gold": 4.0}, {"score": 9.0}, {"score": 1.0, "gold": 5.0})
    kept = []
    for step, numbers in enumerate(steps, start=1):
        held_out._compare(step, {"held_out/kl": 1.0, **{f"held_out/{name}": value for name, value in numbers.items()}})
        kept.append(held_out.best["step"])
    assert kept == [1, 2, 2, 4]


@pytest.mark.slow
def test_keep_best_without_an_evaluation_within_the_largest_kl_keeps_the_last_weights_and_says_so(evaluated, tmp_path):
    run = tmp_path / "toy"
    shutil.copytree(evaluated, run)
    options = ("--learning_rate", "0.01", "--value_warmup_steps", "0")
    stage("ppo", *EVALUATED, *options, run=run)
    last = (run / "ppo" / "model.safetensors").read_bytes()
    output = stage("ppo", *EVALUATED, *options, "--keep", "best", "--keep_max_kl", "1e-12", run=run)
    assert "warning: keeps the last weights, because the KL was above keep_max_kl 1e-12 at each evaluation" in output
    assert record(run, "ppo")["kept"] == {"step": 3, "metric": None, "value": None}
    assert (run / "ppo" / "model.safetensors").read_bytes() == last


@pytest.mark.parametrize(
    "count, size, processes, sizes",
    [(9, 4, 1, [4, 4, 1]), (9, 4, 2, [4, 5]), (10, 4, 2, [4, 4, 2]), (3, 4, 2, [3]), (8, 4, 4, [4, 4])],
)
def test_each_process_has_a_row_of_each_batch(count, size, processes, sizes):
    parts = batches(count, size, processes)
    assert [len(part) for part in parts] == sizes
    assert [index for part in parts for index in part.tolist()] == list(range(count))


def test_fewer_held_out_prompts_than_processes_are_refused():
    with pytest.raises(InputError, match="3 held-out prompts for 4 processes"):
        batches(3, 8, 4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--keep", "best"), "set eval_steps"),
        (("--keep_max_kl", "2"), "set keep: best too"),
        (("--eval_steps", "2"), "set validation_rows under data, or eval_prompts"),
        (("--eval_steps", "2", "--eval_prompts", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_an_evaluation_without_its_inputs_is_refused(toy_run, tmp_path, arguments, message):
    run = tmp_path / "toy"
    shutil.copytree(toy_run, run)
    assert message in stage("ppo", *arguments, run=run, status=2)


@pytest.mark.slow
def test_a_resumed_run_has_the_same_evaluations_and_the_same_best_weights(evaluated, tmp_path):
    options = ("--total_episodes", "320", *EVALUATED, "--keep", "best")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for run in (whole, killed):
        shutil.copytree(evaluated, run)
    stage("ppo", *options, *SAVING, run=whole)
    kill_at_step(7, "ppo", *options, run=killed)
    stage("ppo", *options, *SAVING, run=killed)
    for file in ("held_out.jsonl", "model.safetensors", "value_model/model.safetensors"):
        assert (whole / "ppo" / file).read_bytes() == (killed / "ppo" / file).read_bytes()
    assert record(whole, "ppo")["kept"] == record(killed, "ppo")["kept"]
