"""Stages that train adapters: what they write, what they accept, and what make records."""

import json

import pytest
import torch
from safetensors.torch import load_file

from stages.common.run import INPUT
from tests.interrupted import kill_at_step
from tests.pipeline import TOY, make_here, record, stage

LORA = ("--lora_r", "4")
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def adapted(toy_run, tmp_path_factory):
    """A run whose SFT model, reward model and policy are adapters on the pretrained model of the toy run."""
    run = tmp_path_factory.mktemp("adapted") / "run"
    base = ("--base", toy_run)
    stage("sft", *LORA, *base, run=run)
    stage("reward", *LORA, *base, run=run)
    output = stage("ppo", *LORA, *base, "--value_warmup_steps", "0", run=run)
    assert "KL to the reference = 0" in output and "has another trunk" not in output
    return run


def test_results_are_adapters_on_the_pretrained_model(adapted, toy_run):
    for folder in ("sft", "reward", "ppo", "ppo/value_model"):
        config = json.loads((adapted / folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str((toy_run / "pretrain").resolve())
        assert config["task_type"] == ("CAUSAL_LM" if folder in ("sft", "ppo") else "SEQ_CLS")
        assert not list((adapted / folder).glob("model*.safetensors"))
    before, after = (load_file(adapted / name / WEIGHTS) for name in ("sft", "ppo"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_record_of_a_stage_lists_the_base_of_an_adapter(adapted):
    assert f"{INPUT}pretrain" in record(adapted, "reward")["inputs"]
    assert {f"{INPUT}pretrain", f"{INPUT}sft", f"{INPUT}reward"} <= record(adapted, "ppo")["inputs"].keys()


def test_adapters_are_sampled_from_and_evaluated(adapted, toy_run):
    arguments = ("--base", toy_run, "--models", "sft", "ppo")
    for name in ("samples", "evaluate"):
        stage(name, *arguments, run=adapted)
    metrics = json.loads((adapted / "evaluate" / "metrics.json").read_text())
    assert abs(metrics["ppo"]["kl"]) < 1 and "score" in metrics["sft"]


def test_comparisons_and_full_training_start_from_the_merged_adapter(adapted, toy_run, tmp_path):
    base = ("--base", toy_run, "--model", adapted / "sft")
    stage("comparisons", *base, run=tmp_path / "run")
    stage("sft", *base, "--max_steps", "2", run=tmp_path / "run")
    assert (tmp_path / "run" / "sft" / "model.safetensors").is_file()


def test_merge_writes_an_ordinary_model_and_value_model(adapted, toy_run, tmp_path):
    for name in ("sft", "ppo"):
        extra = () if name == "sft" else ("--model", adapted / "sft", "--reward_model", adapted / "reward")
        stage(name, *LORA, "--merge", *extra, "--base", toy_run, "--output", tmp_path / name, run=tmp_path / "run")
        assert (tmp_path / name / "model.safetensors").is_file()
        assert not (tmp_path / name / "adapter_config.json").exists()
    assert (tmp_path / "ppo" / "value_model" / "model.safetensors").is_file()


def test_a_reward_model_that_is_a_whole_model_stays_one_of_its_own(toy_run, tmp_path):
    output = stage("ppo", *LORA, "--base", toy_run, run=tmp_path / "run")
    assert "has another trunk than the policy" in " ".join(output.split())
    value_model = json.loads((tmp_path / "run" / "ppo" / "value_model" / "adapter_config.json").read_text())
    assert value_model["base_model_name_or_path"] == str((toy_run / "reward").resolve())


@pytest.mark.parametrize("name", [*(pytest.param(n, marks=pytest.mark.slow) for n in ("sft", "reward")), "ppo"])
def test_a_killed_stage_resumes_to_the_same_bytes(adapted, toy_run, tmp_path, name):
    models = {"sft": [], "reward": ["--model", str(adapted / "sft")]}
    models["ppo"] = [*models["reward"], "--reward_model", str(adapted / "reward"), "--total_episodes", "96"]
    arguments = (*LORA, *models[name], "--base", str(toy_run))
    stage(name, *arguments, run=tmp_path / "whole")
    checkpoints = kill_at_step(2, name, *arguments, run=tmp_path / "killed")
    saved = sorted(checkpoints.glob("step-*"))[-1]
    assert not list(saved.glob("model*.safetensors"))  # the trunk is not saved
    assert "resumes after step" in stage(name, *arguments, run=tmp_path / "killed")
    for file in (WEIGHTS, f"value_model/{WEIGHTS}") if name == "ppo" else (WEIGHTS,):
        whole, killed = ((tmp_path / run / name / file).read_bytes() for run in ("whole", "killed"))
        assert whole == killed


def test_make_trains_the_adapters_again_when_the_base_changes(tmp_path, capsys):
    recipe = tmp_path / "lora.yaml"
    with open(TOY) as toy:
        text = toy.read()
    for name in ("sft", "ppo"):
        text = text.replace(f"\n{name}:\n", f"\n{name}:\n  lora_r: 2\n")
    recipe.write_text(text)
    run = tmp_path / "run"
    make_here("sft", capsys, run=run, recipe=recipe)
    assert "up to date" in make_here("sft", capsys, run=run, recipe=recipe)
    make_here("pretrain", capsys, run=run, recipe=recipe, ARGS="--learning_rate 2e-3")
    assert "runs again" in make_here("sft", capsys, run=run, recipe=recipe)


@pytest.mark.parametrize(
    "options, message",
    [
        (("--lora_r", "0"), "lora_r is 0; it must be a whole number|lora_r is 0; it must be from 1"),
        (("--lora_r", "4", "--lora_dropout", "0.1"), "lora_dropout is 0.1; it must be from 0"),
        (("--lora_r", "4", "--lora_target_modules", "nothing"), "PEFT can't add adapters"),
    ],
)
def test_an_option_that_can_not_be_used_is_named(toy_run, tmp_path, options, message):
    output = " ".join(stage("sft", *options, "--base", toy_run, run=tmp_path / "run", status=2).split())
    assert any(part in output for part in message.split("|")), output
