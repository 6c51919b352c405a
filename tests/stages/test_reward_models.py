"""Published reward models in the stages: as PPO's reward, as a reward function, labeller, gold and judge."""

import json
import os
import re

import pytest
from safetensors.torch import load_file

from rlhf import InputError
from rlhf.rows import read_rows
from rlhf.scoring import RewardModel
from stages.common.options import PPOOptions
from stages.common.parsing import is_function, parse, split_label
from tests.pipeline import TOY, make_here, record, stage
from tests.recipes import write_recipe
from tests.scoring.test_reward_models import save, tokenizer_of, word_tokenizer

LABELS = {0: "helpful", 1: "harmless"}
ONE_STEP = ("--total_episodes", "16", "--learning_rate", "0", "--value_learning_rate", "0")


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """A folder with a decoder of one label and an encoder of two, both with tokenizers of their own."""
    folder = tmp_path_factory.mktemp("judges")
    save(folder / "decoder", "llama", word_tokenizer("", "", "</s>"))
    save(folder / "encoder", "bert", tokenizer_of("bert"), LABELS)
    return folder


def log_of(run):
    return [json.loads(line) for line in (run / "ppo" / "log.jsonl").read_text().splitlines()]


# --- PPO --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("decoder",), ("encoder", "--reward_label", "harmless")])
def test_ppo_trains_on_a_reward_model_with_a_tokenizer_of_its_own(run, judges, arguments):
    name, *label = arguments
    output = stage("ppo", "--reward_model", judges / name, *label, "--micro_batch_size", "5", run=run)
    assert "reads the text of responses with its own tokenizer" in output
    steps = log_of(run)
    assert len(steps) == 3 and len({step["score"] for step in steps}) == 3
    assert (run / "ppo" / "value_model" / "model.safetensors").is_file()
    assert record(run, "ppo")["inputs"][str(judges / name)] != "missing"


def test_its_value_model_starts_from_the_policy_with_a_head_of_zeros(run, judges):
    stage("ppo", *ONE_STEP, "--reward_model", judges / "decoder", run=run)
    value, policy = (load_file(run / name / "model.safetensors") for name in ("ppo/value_model", "sft"))
    assert not value["score.weight"].any()
    assert value["transformer.wte.weight"].equal(policy["transformer.wte.weight"])


def test_the_same_classifier_as_a_function_gold_and_reward_model_gives_the_same_scores(run, judges):
    label = f"{judges / 'encoder'}#harmless"
    stage("ppo", *ONE_STEP, "--reward_model", label, "--gold", label, run=run)
    (alone,) = log_of(run)
    functions = ("--reward_functions", label, f"{judges / 'encoder'}#0", "--reward_weights", "1", "0")
    stage("ppo", *ONE_STEP, *functions, run=run)
    (step,) = log_of(run)
    assert alone["gold"] == pytest.approx(alone["score"], abs=1e-5)
    assert step["rewards/encoder#harmless"] == pytest.approx(alone["score"], abs=1e-5)
    assert step["score"] == pytest.approx(alone["score"], abs=1e-5) != step["rewards/encoder#0"]


def test_the_reward_model_of_the_run_scores_a_policy_with_another_tokenizer(run, shared):
    argv = ("--model", shared / "models" / "stories260K", "--ptx_coef", "0", *ONE_STEP)
    output = stage("ppo", *argv, run=run)
    assert f"{run}/reward reads the text of responses with its own tokenizer" in output


# --- the other stages -------------------------------------------------------------------------------------------------


def test_a_classifier_labels_comparisons_by_its_scores(run, judges):
    name = f"{judges / 'encoder'}#helpful"
    stage("comparisons", "--labeller", name, "--noise", "0", run=run)
    model = RewardModel(judges / "encoder", "helpful")
    rows = read_rows(run / "comparisons" / "train.jsonl", "comparisons")
    for row in list(rows)[:8]:
        expected = model([row["prompt"]] * len(row["completions"]), row["completions"], row["ended"])
        assert row["quality"] == pytest.approx(expected, abs=1e-5)
        pairs = sorted(zip(row["ranks"], row["quality"], strict=True))
        assert [quality for _, quality in pairs] == sorted(row["quality"], reverse=True)


def test_a_classifier_is_the_judge_of_evaluate_and_gold_of_samples(run, judges):
    name = str(judges / "decoder")
    stage("evaluate", "--gold", name, "--best_of", "0", run=run)
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    assert 0 <= metrics["ppo"]["win_rate"] <= 1 and metrics["sft"]["gold_low"] < metrics["sft"]["gold_high"]
    assert "(gold " in stage("samples", "--gold", name, "--count", "2", run=run)


def test_evaluate_scores_models_whose_tokenizer_differs_from_that_of_the_reward_model(run, shared):
    stage("evaluate", "--models", "sft", shared / "models" / "stories260K", "--best_of", "0", run=run)
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    assert {"score", "score_greedy"} <= metrics["stories260K"].keys() & metrics["sft"].keys()


# --- make -------------------------------------------------------------------------------------------------------------


def test_a_changed_folder_of_a_classifier_makes_its_stage_run_again(run, tmp_path, capsys):
    save(tmp_path / "judge", "bert", tokenizer_of("bert"), LABELS)
    section = f"comparisons: {{labeller: '{tmp_path}/judge#helpful'}}"
    recipe = write_recipe(tmp_path, f"base: {TOY}\n{section}\n".replace(TOY, os.path.abspath(TOY)))
    assert "labeller data.world:gold, now" in make_here("comparisons", capsys, run, recipe)
    assert "up to date" in make_here("comparisons", capsys, run, recipe)
    save(tmp_path / "judge", "bert", tokenizer_of("bert"), LABELS, score_mean=1.0)
    output = make_here("comparisons", capsys, run, recipe)
    assert re.search(r"comparisons +runs again.*judge has changed", output)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("ppo: {{reward_model: '{0}/encoder'}}", "encoder has 2 labels: name one of helpful, harmless"),
        ("ppo: {{reward_model: '{0}/encoder', reward_label: kind}}", "no label 'kind'; labels: helpful, harmless"),
        ("ppo: {{gold: '{0}/decoder#2'}}", "no label '2'"),
        ("comparisons: {{labeller: '{0}/encodr'}}", 'no sequence classifier at .*did you mean ".*/encoder"'),
        ("ppo: {{gold: world.gold}}", "no sequence classifier at world.gold.*a function is named module:function"),
    ],
)
def test_a_classifier_or_label_that_does_not_exist_stops_make_before_the_first_stage(
    tmp_path, judges, capsys, section, message
):
    recipe = write_recipe(tmp_path, f"base: {os.path.abspath(TOY)}\n{section.format(judges)}\n")
    assert re.search(message, make_here("ppo", capsys, tmp_path / "run", recipe, status=2))
    assert not (tmp_path / "run").exists()


def test_names_of_functions_folders_and_labels_are_told_apart(tmp_path):
    (tmp_path / "a:b#c").mkdir()
    names = ["module:function", "org/model", "org/model#a:b", "model#1", str(tmp_path / "a:b#c")]
    assert [is_function(name) for name in names] == [True, False, False, False, False]
    assert split_label("org/model#a:b") == ("org/model", "a:b") and split_label(names[-1]) == (names[-1], None)
    with pytest.raises(InputError, match="reward_label names a label of reward_model"):
        PPOOptions(reward_label="a")
    with pytest.raises(InputError, match="no module nothing"):
        parse("ppo", ["--reward_function", "nothing:here"])
