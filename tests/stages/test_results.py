"""What the stages leave: models that load without this project, logs, samples, evaluations."""

import json
import re
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.tokens import load_tokenizer
from stages.common import stage as stage_module
from stages.common.console import duration
from stages.common.options import CHAIN, PPOOptions
from tests.families import tiny_model
from tests.forks import ROOT
from tests.pipeline import record, shell, stage
from tests.recipes import write_recipe


def log_of(run):
    return [json.loads(line) for line in (run / "ppo" / "log.jsonl").read_text().splitlines()]


def test_the_log_has_a_line_for_every_step_with_its_metrics(toy_run):
    steps = log_of(toy_run)
    assert [step["step"] for step in steps] == [1, 2, 3]
    expected = {
        "score",
        "kl",
        "gold",
        "entropy",
        "ptx_loss",
        "approx_kl",
        "clip_fraction",
        "ended",
        "episodes_per_second",
    }
    for step in steps:
        assert expected <= step.keys()
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", ["pretrain", "sft", "ppo"])
def test_a_policy_loads_and_generates_without_this_project(toy_run, name):
    folder = toy_run / name
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    inputs = tokenizer("User: Name two tools.\nBot:", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=5).shape[1] > inputs["input_ids"].shape[1]


def test_the_reward_model_loads_and_scores_without_this_project(toy_run):
    folder = toy_run / "reward"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer("User: Name two tools.\nBot: A hammer.", return_tensors="pt")).logits
    assert logits.shape == (1, 1) and model.config.score_std > 0


def test_ppo_changes_every_weight_of_the_sft_model(toy_run):
    sft, ppo = (AutoModelForCausalLM.from_pretrained(toy_run / name).state_dict() for name in ("sft", "ppo"))
    assert all(not torch.equal(sft[key], ppo[key]) for key in sft)


def test_only_as_much_pretraining_text_is_tokenised_as_ppo_needs(run):
    documents = len((run / "data" / "text.jsonl").read_text().splitlines())
    options = record(run, "ppo")["options"]
    updates = options["num_ppo_epochs"] * options["num_mini_batches"]
    needed = options["total_episodes"] // options["batch_size"] * updates * options["ptx_batch_size"]
    assert needed < documents and f" {needed:,} pieces of pretraining text" in stage("ppo", run=run)


# --- samples ----------------------------------------------------------------------------------------------------------


def test_prompts_of_the_command_line_are_answered_by_all_models_side_by_side(run):
    output = stage("samples", "--prompt", "Name two tools.", "Who is Anna?", "--temperature", "0", run=run)
    assert "User: Name two tools." in output and "User: Who is Anna?" in output
    table = (run / "samples" / "samples.md").read_text()
    assert "| prompt | pretrain | sft | ppo |" in table and "Name two tools." in table


def test_no_gold_is_shown_for_a_prompt_whose_gold_is_unknown(run):
    output = stage("samples", "--prompt", "Name two tools.", "What is love?", "--models", "sft", run=run)
    known, unknown = output.split("User: What is love?")
    assert "(gold" in known and "(gold" not in unknown and "nan" not in unknown


def test_a_prompt_that_does_not_fit_is_refused(run):
    assert "longer than 104 tokens" in stage("samples", "--prompt", "word " * 200, run=run, status=2)


def test_prompts_too_long_for_a_model_are_dropped_and_counted(run):
    with open(run / "data" / "prompts_test.jsonl", "a") as file:
        file.write(json.dumps({"prompt": "word " * 200}) + "\n")
    for name in ("samples", "evaluate"):
        output = stage(name, "--count", "100", run=run)
        assert "1 prompts dropped for all models: longer than 104 tokens for pretrain" in output


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_an_evaluation_has_every_metric_and_each_is_finite(run):
    stage("evaluate", run=run)
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    expected = {"gold", "gold_greedy", "perfect_greedy", "perplexity", "length", "ended"}
    for model in ("pretrain", "sft", "ppo"):
        assert expected <= metrics[model].keys()
    for name in ("kl", "win_rate", "win_rate_greedy"):
        low, value, high = (metrics["ppo"][f"{name}{end}"] for end in ("_low", "", "_high"))
        assert low <= value <= high
    assert 0 <= metrics["reward"]["label_accuracy"] <= 1
    assert set(metrics["seconds"]) >= set(CHAIN)
    numbers = [number for part in metrics.values() for number in part.values()]
    assert all(isinstance(number, float | int) and number == number for number in numbers)


def test_without_a_gold_function_its_metrics_are_absent(run, tmp_path):
    recipe = write_recipe(tmp_path, f"base: {ROOT}/tests/toy.yaml\nevaluate:\n  gold: none\n")
    stage("evaluate", run=run, recipe=recipe)
    names = [name for part in json.loads((run / "evaluate" / "metrics.json").read_text()).values() for name in part]
    assert not [name for name in names if "gold" in name or "perfect" in name or "win" in name]


# --- options of PPO ---------------------------------------------------------------------------------------------------


def test_a_value_head_and_other_options_of_ppo(run):
    options = ("--kl_target", "1", "--ema_decay", "0.9", "--whiten_rewards", "--micro_batch_size", "3")
    stage("ppo", "--share_trunk", *options, run=run)
    assert (run / "ppo" / "value_model" / "model.safetensors").is_file()


def test_ppo_without_a_value_model_and_several_responses_to_a_prompt(run):
    stage("ppo", "--advantage_estimator", "rloo", "--num_generations", "4", run=run)
    assert (run / "ppo" / "model.safetensors").is_file() and not (run / "ppo" / "value_model").exists()


def test_stages_that_do_not_sample_train_a_model_that_those_that_sample_refuse_by_name(run, tmp_path):
    tiny_model("mamba").save_pretrained(tmp_path / "mamba")
    load_tokenizer(run / "pretrain").save_pretrained(tmp_path / "mamba")
    warning = "warning: comparisons, ppo, samples and evaluate will refuse this model: MambaForCausalLM has no cache"
    assert warning in stage("pretrain", "--model", str(tmp_path / "mamba"), run=run)
    assert warning in stage("sft", run=run)
    stage("reward", run=run)
    assert json.loads((run / "reward" / "config.json").read_text())["model_type"] == "mamba"
    for name in ("comparisons", "ppo", "samples", "evaluate"):
        assert "MambaForCausalLM has no cache of keys and values" in stage(name, run=run, status=2)


@pytest.mark.parametrize("name", ["sft", "reward", "ppo"])
def test_bf16_works_on_a_cpu(run, name):
    stage(name, "--bf16", run=run)


@pytest.mark.parametrize(
    ("slowdown", "device", "warned"), [(12.3, "cpu", True), (0.5, "cpu", False), (12.3, "cuda", False)]
)
def test_a_warning_is_printed_if_bf16_is_slow_on_this_cpu(slowdown, device, warned, monkeypatch, capsys):
    monkeypatch.setattr("rlhf.engine.bf16_slowdown", lambda: slowdown)
    monkeypatch.setattr("rlhf.models.device", lambda: torch.device(device))
    stage_module.warn_about_bf16(PPOOptions(bf16=True))
    assert ("bf16 takes 12 times as long as fp32 on this CPU" in capsys.readouterr().out) == warned
    stage_module.warn_about_bf16(PPOOptions())
    assert capsys.readouterr().out == ""


def test_trackers_write_into_the_result(run):
    pytest.importorskip("tensorboard")
    stage("ppo", "--log_with", "tensorboard", "--output", run / "logged", run=run)
    assert list((run / "logged").rglob("events.out*"))


# --- starting ---------------------------------------------------------------------------------------------------------


def test_the_data_stage_and_make_start_without_torch(tmp_path):
    script = (
        "import sys; sys.argv = ['data', '--recipe', 'tests/toy.yaml', '--run', sys.argv[1]]\n"
        "import stages.data, stages.common.pipeline\n"
        "stages.data.main('data', stages.data.work)\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'trl') if name in sys.modules])"
    )

    assert shell(sys.executable, "-c", script, str(tmp_path / "run")).splitlines()[-1] == "[]"


def test_garbage_collection_is_off_only_while_a_stage_imports():

    script = "import gc, sys; sys.argv[0] = '-m'; import stages.common.stage as stage; print(gc.isenabled()); "
    script += "sys.argv = ['ppo', '--nothing']\ntry: stage.main('ppo', None)\nfinally: print(gc.isenabled())"
    assert re.findall("True|False", shell(sys.executable, "-c", script, status=2)) == ["False", "True"]
    assert "True" in shell(sys.executable, "-c", "import gc, stages.common.stage; print(gc.isenabled())")


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.4, "7 s"), (99.4, "99 s"), (119.6, "2 min 0 s"), (363.5, "6 min 4 s"), (7500, "2 h 5 min")]
)
def test_a_duration_has_no_sixty_seconds_or_minutes(seconds, text):
    assert duration(seconds) == text
