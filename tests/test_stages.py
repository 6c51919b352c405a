"""The stages as a user runs them: through the Makefile, at toy size, from nothing to PPO, and on files of one's own."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.models import load_tokenizer, new_scorer
from stages import cli
from tests.pipeline import ROOT, STAGES, command, finished, make, shell, stage

# --- the whole pipeline -----------------------------------------------------------------------------------------------


def test_one_command_makes_every_stage_and_shows_the_answers(made):
    run, printed = made
    assert [line for line in printed.splitlines() if line in STAGES] == list(STAGES)
    assert "ratio = 1" in printed and "KL to the reference = 0" in printed
    assert printed.count("  pretrain ") == printed.count("  sft ") == printed.count("  ppo ") == 6
    assert (run / "ppo" / "ppo.png").stat().st_size > 10_000
    pickled = [path for end in ("bin", "pt", "pth", "pkl") for path in run.rglob(f"*.{end}")]
    assert not [path for path in pickled if "checkpoints" not in path.parts]


def test_a_line_of_the_log_for_every_step_with_the_numbers_that_matter(made):
    steps = [json.loads(line) for line in (made[0] / "ppo" / "log.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3]
    for step in steps:
        assert {
            "score",
            "kl",
            "gold",
            "entropy",
            "ptx_loss",
            "approx_kl",
            "clip_fraction",
            "ended",
            "episodes_per_second",
        } <= step.keys()
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", ["pretrain", "sft", "ppo"])
def test_a_policy_loads_and_generates_without_this_project(made, name):
    folder = made[0] / name
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    inputs = tokenizer("User: Name two tools.\nBot:", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=5).shape[1] > inputs["input_ids"].shape[1]


def test_the_reward_model_loads_and_scores_without_this_project(made):
    folder = made[0] / "reward"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer("User: Name two tools.\nBot: A hammer.", return_tensors="pt")).logits
    assert logits.shape == (1, 1) and model.config.score_std > 0


def test_the_ppo_policy_is_not_the_sft_model(made):
    one, other = (AutoModelForCausalLM.from_pretrained(made[0] / name).state_dict() for name in ("sft", "ppo"))
    assert all(not torch.equal(one[key], other[key]) for key in one)


def test_no_more_pretraining_text_is_tokenised_than_there_is_time_for(made):
    documents = len((made[0] / "data" / "text.jsonl").read_text().splitlines())
    options = json.loads((made[0] / "ppo" / "stage.json").read_text())["options"]
    updates = options["num_ppo_epochs"] * options["num_mini_batches"]
    needed = options["total_episodes"] // options["batch_size"] * updates * options["ptx_batch_size"]
    assert needed < documents and f" {needed:,} pieces of pretraining text" in made[1]


# --- starting ---------------------------------------------------------------------------------------------------------


def test_garbage_is_looked_for_again_once_a_stage_has_been_imported():
    script = "import gc, sys; sys.argv[0] = '-m'; import stages.cli as cli; print(gc.isenabled()); "
    script += (
        "sys.argv = ['ppo', '--nothing']\ntry: cli.main('ppo', cli.StageOptions, None)\nfinally: print(gc.isenabled())"
    )
    assert re.findall("True|False", shell(sys.executable, "-c", script, status=2)) == ["False", "True"]
    assert "True" in shell(sys.executable, "-c", "import gc, stages.cli; print(gc.isenabled())")


@pytest.mark.parametrize(("times", "where", "said"), [(12.3, "cpu", True), (0.5, "cpu", False), (12.3, "cuda", False)])
def test_bf16_is_advised_against_where_the_cpu_has_no_instructions_for_it(times, where, said, monkeypatch, capsys):
    monkeypatch.setattr("rlhf.kernels.slowness_of_bf16", lambda: times)
    monkeypatch.setattr("rlhf.models.device", lambda: torch.device(where))
    cli.warn_of_bf16()
    assert ("bf16 takes 12 times as long as fp32 on this CPU" in capsys.readouterr().out) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(7.4, "7 s"), (99.4, "99 s"), (119.6, "2 min 0 s"), (363.5, "6 min 4 s")]
)
def test_a_duration_has_no_sixty_seconds(seconds, said):
    assert cli._duration(seconds) == said


# --- make -------------------------------------------------------------------------------------------------------------


def test_what_is_up_to_date_is_not_made_again_and_that_is_known_at_once(run):
    before, started = finished(run), time.time()
    assert make("ppo", run=run).strip() == ""
    assert time.time() - started < 3
    assert finished(run) == before


def test_an_edit_of_a_recipe_remakes_what_depends_on_it_and_nothing_else(run, tmp_path):
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(
        (ROOT / "tests/toy.yaml").read_text().replace("show_samples: 2", "show_samples: 0  # fewer\n  lam: 0.9")
    )
    before = finished(run)
    make("ppo", run=run, recipe=recipe)
    after = finished(run)
    assert {name for name in STAGES if before[name] != after[name]} == {"ppo"}
    assert json.loads((run / "ppo" / "stage.json").read_text())["options"]["lam"] == 0.9


def test_options_on_the_command_line_stay_with_the_stage_they_were_given_to(run):
    make("reward", "ARGS=--learning_rate 1e-3", run=run)
    before = finished(run)
    printed = make("ppo", run=run)
    assert [
        line.split()[0]
        for line in printed.splitlines()
        if line.split() and line.split()[0] in STAGES and not line.startswith(" ")
    ] == ["ppo"]
    assert finished(run)["reward"] == before["reward"]
    assert json.loads((run / "reward" / "stage.json").read_text())["options"]["learning_rate"] == 1e-3


def test_a_misspelt_option_is_refused_before_any_work(run):
    before = finished(run)
    printed = make("ppo", "ARGS=--kl_ceof 1", run=run, status=2)
    assert 'no option "kl_ceof", did you mean "kl_coef"?' in printed
    assert finished(run) == before


def test_a_stage_that_fails_leaves_the_older_result_as_it_was(run):
    before = finished(run)
    printed = stage("ppo", "--model", run / "nowhere", run=run, status=2)
    assert "nowhere" in printed
    assert finished(run) == before


def test_bare_make_explains_the_stages():
    printed = shell("make", "--no-print-directory")
    assert all(f"make {name}" in printed for name in (*STAGES, "samples", "evaluate", "setup", "test", "lint", "clean"))


@pytest.mark.parametrize(
    "name, first", [("sft", "pretrain"), ("comparisons", "sft"), ("reward", "sft"), ("ppo", "sft"), ("samples", "data")]
)
def test_a_stage_without_its_input_says_what_to_run(tmp_path, name, first):
    assert f"run `make {first}`" in stage(name, run=tmp_path / "empty", status=2).replace(" first", "")


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_samples_of_ones_own_prompts_side_by_side(run):
    printed = stage("samples", "--prompt", "Name two tools.", "Who is Anna?", "--temperature", "0", run=run)
    assert "User: Name two tools." in printed and "User: Who is Anna?" in printed
    table = (run / "samples" / "samples.md").read_text()
    assert "| prompt | pretrain | sft | ppo |" in table and "Name two tools." in table


def test_no_gold_is_shown_for_a_prompt_that_nobody_can_judge(run):
    printed = stage("samples", "--prompt", "Name two tools.", "What is love?", "--models", "sft", run=run)
    judged, unjudged = printed.split("User: What is love?")
    assert "(gold" in judged and "(gold" not in unjudged and "nan" not in unjudged


def test_a_labeller_without_an_opinion_is_named(run, tmp_path):
    (tmp_path / "shy.py").write_text("def label(completions):\n    return [None for _ in completions]\n")
    shy = command("comparisons", "--labeller", "shy:label", run=run)
    printed = shell(*shy, PYTHONPATH=str(tmp_path), status=2)
    assert "shy:label gives no number for an answer to 'User:" in printed


def test_a_prompt_that_does_not_fit_is_refused(run):
    assert "longer than 104 tokens" in stage("samples", "--prompt", "word " * 200, run=run, status=2)


def test_evaluation_has_every_number_and_each_is_finite(run):
    make("evaluate", run=run)
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    own = {"gold", "gold_greedy", "perfect_greedy", "perplexity", "length", "ended"}
    for model in ("pretrain", "sft", "ppo"):
        assert own <= metrics[model].keys()
    for name in ("kl", "win_rate", "win_rate_greedy"):
        low, value, high = (metrics["ppo"][f"{name}{end}"] for end in ("_low", "", "_high"))
        assert low <= value <= high
    assert 0 <= metrics["reward"]["label_accuracy"] <= 1
    assert set(metrics["seconds"]) >= set(STAGES)
    assert all(
        isinstance(number, float | int) and number == number for part in metrics.values() for number in part.values()
    )


def test_without_a_gold_scorer_its_numbers_are_absent(run, tmp_path):
    recipe = tmp_path / "no-gold.yaml"
    recipe.write_text(f"base: {ROOT}/tests/toy.yaml\nevaluate:\n  gold: none\n")
    stage("evaluate", run=run, recipe=recipe)
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    assert not [
        name for part in metrics.values() for name in part if "gold" in name or "perfect" in name or "win" in name
    ]


def test_trackers_are_an_option(run):
    pytest.importorskip("tensorboard")
    stage("ppo", "--log_with", "tensorboard", "--output", run / "logged", run=run)
    assert list((run / "logged").rglob("events.out*"))


# --- files of one's own -----------------------------------------------------------------------------------------------

WORDS = ["red", "blue", "green", "fox", "dog", "hen", "runs", "sleeps", "sings", "today", "again", "never"]


def own_files(folder: Path) -> None:
    """Text, demonstrations as chats, and comparisons that people might have made, all with a row that can't be used."""

    def sentence(i, n=4):
        return " ".join(WORDS[(i * 7 + 5 * j) % len(WORDS)] for j in range(n))

    def question(i):
        return {"role": "user", "content": f"say {sentence(i, 2)} {i}"}

    (folder / "book.txt").write_text("\n\n".join(f"the {sentence(i, 9)} . user assistant say" for i in range(200)))
    with open(folder / "chats.jsonl", "w") as file:
        for i in range(60):
            file.write(json.dumps({"messages": [question(i), {"role": "assistant", "content": sentence(i)}]}) + "\n")
        file.write(json.dumps({"messages": [question(60)]}) + "\n")
    with open(folder / "ranked.jsonl", "w") as file:
        for i in range(60):
            completions = [sentence(i + j) for j in range(2 + i % 3)]
            file.write(
                json.dumps(
                    {"prompt": [question(i)], "completions": completions, "ranks": list(range(len(completions)))}
                )
                + "\n"
            )
        file.write(json.dumps({"prompt": [question(1)], "completions": ["a", "b"], "ranks": [0, 0]}) + "\n")


OWN = """
data:
  folder: {folder}
  text: [book.txt]
  demonstrations: [chats.jsonl]
  comparisons: [ranked.jsonl]
pretrain: {{layers: 1, width: 32, heads: 2, packing: true}}
sft: {{epochs: 2}}
reward: {{batch_size: 4}}
ppo: {{total_episodes: 32, batch_size: 16, response_length: 16, ptx_batch_size: 4}}
samples: {{template: chat, response_length: 16}}
evaluate: {{response_length: 16}}
"""


def test_files_of_ones_own_go_through_every_stage(tmp_path):
    own_files(tmp_path)
    recipe = tmp_path / "own.yaml"
    recipe.write_text(OWN.format(folder=tmp_path))
    run = tmp_path / "run"
    printed = make("evaluate", run=run, recipe=recipe)
    assert "60 rows (1 dropped: 1 chat that does not end with a reply)" in printed
    assert "60 rows (1 dropped: 1 all completions tied)" in printed
    assert "the recipe names comparisons made by people" in printed
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    assert (
        0
        <= metrics["reward"]["accuracy_low"]
        <= metrics["reward"]["accuracy"]
        <= metrics["reward"]["accuracy_high"]
        <= 1
    )
    assert "gold" not in metrics["ppo"] and metrics["ppo"]["score"] == metrics["ppo"]["score"]
    assert "say red" in stage("samples", "--prompt", "say red fox", run=run, recipe=recipe)

    # a row that is wrong stops the stage, with file and line, and what had been made stays
    with open(tmp_path / "chats.jsonl", "a") as file:
        file.write('{"messages": "hello"}\n')
    before = finished(run)
    assert "chats.jsonl:62" in make("sft", run=run, recipe=recipe, status=2)
    assert finished(run) == before


def test_a_reward_function_of_ones_own_takes_the_place_of_the_reward_model(run, tmp_path):
    (tmp_path / "shouting.py").write_text(
        "def reward(completions, **_):\n    return [text.count('!') for text in completions]\n"
    )
    shouting = command("ppo", "--reward_function", "shouting:reward", run=run)
    shell(*shouting, PYTHONPATH=str(tmp_path))
    steps = [json.loads(line) for line in (run / "ppo" / "log.jsonl").read_text().splitlines()]
    assert all(step["score"] * 16 == pytest.approx(round(step["score"] * 16), abs=1e-4) for step in steps)


def test_with_a_reward_function_no_reward_model_is_made_or_missed(tmp_path):
    recipe = tmp_path / "verifiable.yaml"
    recipe.write_text(
        "base: tests/toy.yaml\nppo:\n  reward_function: data.world:gold\ncomparisons:\n  labeller: none\n"
    )
    run = tmp_path / "run"
    make("evaluate", run=run, recipe=recipe)
    assert not (run / "reward").exists() and not (run / "comparisons").exists()
    steps = [json.loads(line) for line in (run / "ppo" / "log.jsonl").read_text().splitlines()]
    assert [step["score"] for step in steps] == pytest.approx([step["gold"] for step in steps])
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    assert "gold" in metrics["ppo"] and "score" not in metrics["ppo"]
    assert make("ppo", run=run, recipe=recipe).strip() == ""


def test_a_handful_of_rows_goes_through_every_stage_with_nothing_kept_for_the_test(tmp_path):
    own_files(tmp_path)
    for name in ("chats", "ranked"):
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines[1:4]) + "\n")
    recipe = tmp_path / "few.yaml"
    recipe.write_text(OWN.format(folder=tmp_path).replace("batch_size: 4", "batch_size: 2"))
    printed = make("ppo", run=tmp_path / "run", recipe=recipe)
    assert "for the test 0 rows" in printed and "no prompt is held out of so few" in printed


def test_a_reward_model_that_reads_other_tokens_is_refused(run, shared):
    scorer = new_scorer(shared / "models" / "stories260K", load_tokenizer(shared / "models" / "stories260K"))
    scorer.save_pretrained(run / "other")
    load_tokenizer(shared / "models" / "stories260K").save_pretrained(run / "other")
    assert "another tokenizer than the policy" in stage("ppo", "--reward_model", run / "other", run=run, status=2)


def test_prompts_too_long_for_a_model_are_left_out_and_counted(run):
    with open(run / "data" / "prompts_test.jsonl", "a") as file:
        file.write(json.dumps({"prompt": "word " * 200}) + "\n")
    for name in ("samples", "evaluate"):
        printed = stage(name, "--count", "100", run=run)
        assert "24 rows (1 dropped: 1 longer than 104 tokens), which no model is asked" in printed


def test_a_value_head_on_the_policys_trunk_and_the_other_options_of_ppo(run):
    stage(
        "ppo",
        "--share_trunk",
        "--kl_target",
        "1",
        "--ema_decay",
        "0.9",
        "--whiten_rewards",
        "--micro_batch_size",
        "3",
        run=run,
    )
    assert (run / "ppo" / "value_model" / "model.safetensors").is_file()


def test_ppo_without_a_value_model_and_several_answers_to_a_prompt(run):
    stage("ppo", "--advantage_estimator", "rloo", "--num_generations", "4", run=run)
    assert (run / "ppo" / "model.safetensors").is_file() and not (run / "ppo" / "value_model").exists()


@pytest.mark.parametrize("name", ["sft", "reward", "ppo"])
def test_bf16_works_on_a_cpu_as_well(run, name):
    stage(name, "--bf16", run=run)


# --- real input -------------------------------------------------------------------------------------------------------


def test_a_real_llama_goes_through_every_stage(shared, tmp_path):
    recipe = tmp_path / "llama.yaml"
    ppo = "ppo: {ptx_coef: 0, total_episodes: 32, response_length: 40}"
    recipe.write_text(f"base: {ROOT}/tests/toy.yaml\npretrain: {{model: {shared}/models/stories260K}}\n{ppo}\n")
    printed = make("ppo", run=tmp_path / "run", recipe=recipe)
    assert "260,032 parameters loaded" in printed
    assert "nothing to train" in printed
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "ppo").config.model_type == "llama"


def test_every_row_that_people_wrote_is_used_or_counted(shared, tmp_path):
    recipe = tmp_path / "people.yaml"
    recipe.write_text(f"base: human\ndata:\n  folder: {shared}\n")
    printed = stage("data", run=tmp_path, recipe=recipe)
    assert (
        "1,936 rows (5 dropped: 3 transcripts of different conversations, 2 empty completion)" in printed
    )  # of 1,783 + 158
    assert len(re.findall(r"\d+ rows", printed)) == 4


def test_files_that_are_not_there_are_named(tmp_path):
    recipe = tmp_path / "absent.yaml"
    recipe.write_text(f"base: human\ndata:\n  folder: {tmp_path}/absent\n")
    assert f"no file at {tmp_path}/absent/text/tinyshakespeare.txt" in stage(
        "data", run=tmp_path, recipe=recipe, status=2
    )
