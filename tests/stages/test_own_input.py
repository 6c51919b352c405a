"""Input of the user's own: files, rewards, labellers, models; and real input."""

import json
import re
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from stages.common import stage as stage_module
from stages.common.options import CHAIN
from stages.common.parsing import parse_given
from stages.common.stage import Stage
from tests.forks import ROOT
from tests.pipeline import TOY, finished, make_here, stage
from tests.recipes import write_recipe

WORDS = ["red", "blue", "green", "fox", "dog", "hen", "runs", "sleeps", "sings", "today", "again", "never"]


def write_own_files(folder: Path) -> None:
    """Text, demonstrations as chats, and rankings, the latter two with a row that is dropped."""

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
            row = {"prompt": [question(i)], "completions": completions, "ranks": list(range(len(completions)))}
            file.write(json.dumps(row) + "\n")
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


def test_files_of_ones_own_go_through_every_stage(tmp_path, capsys):
    write_own_files(tmp_path)
    recipe = write_recipe(tmp_path, OWN.format(folder=tmp_path))
    run = tmp_path / "run"
    output = make_here("evaluate", capsys, run, recipe)
    assert "60 rows (1 dropped: 1 chat that does not end with a reply)" in output
    assert "60 rows (1 dropped: 1 all completions tied)" in output
    assert "comparisons from the recipe's files: nothing to sample" in output
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    low, accuracy, high = (metrics["reward"][f"accuracy{end}"] for end in ("_low", "", "_high"))
    assert 0 <= low <= accuracy <= high <= 1
    assert "gold" not in metrics["ppo"] and metrics["ppo"]["score"] == metrics["ppo"]["score"]
    assert "say red" in stage("samples", "--prompt", "say red fox", run=run, recipe=recipe)

    # a malformed row stops the stage, with file and line, and finished results stay
    with open(tmp_path / "chats.jsonl", "a") as file:
        file.write('{"messages": "hello"}\n')
    before = finished(run)
    assert "chats.jsonl:62" in make_here("sft", capsys, run, recipe, status=2)
    assert finished(run) == before


def test_a_handful_of_rows_goes_through_every_stage_with_nothing_held_out(tmp_path, capsys):
    write_own_files(tmp_path)
    for name in ("chats", "ranked"):
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines[1:4]) + "\n")
    recipe = write_recipe(tmp_path, OWN.format(folder=tmp_path).replace("batch_size: 4", "batch_size: 2"))
    output = make_here("ppo", capsys, tmp_path / "run", recipe)
    assert "test: 0 rows" in output and "no held-out prompts, because the data has too few rows" in output


def test_a_reward_function_replaces_the_reward_model(run):
    stage("ppo", "--reward_function", "tests.rewards:exclamation_marks", run=run)
    steps = [json.loads(line) for line in (run / "ppo" / "log.jsonl").read_text().splitlines()]
    assert all(step["score"] * 16 == pytest.approx(round(step["score"] * 16), abs=1e-4) for step in steps)


def test_a_reward_function_may_lie_anywhere_on_the_path(run, tmp_path):
    (tmp_path / "mine.py").write_text("def reward(completions):\n    return [1.0 for _ in completions]\n")
    stage("ppo", "--reward_function", "mine:reward", run=run, modules=[tmp_path])


def test_with_a_reward_function_no_reward_model_is_made(tmp_path, capsys):
    text = "base: tests/toy.yaml\nppo:\n  reward_function: data.world:gold\ncomparisons:\n  labeller: none\n"
    recipe, run = write_recipe(tmp_path, text), tmp_path / "run"
    make_here("evaluate", capsys, run, recipe)
    assert set(finished(run)) == set(CHAIN) - {"comparisons", "reward"}
    steps = [json.loads(line) for line in (run / "ppo" / "log.jsonl").read_text().splitlines()]
    assert [step["score"] for step in steps] == pytest.approx([step["gold"] for step in steps])
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text())
    assert "gold" in metrics["ppo"] and "score" not in metrics["ppo"]
    assert "up to date" in make_here("ppo", capsys, run, recipe)


def test_a_labeller_that_returns_no_number_is_named(run):
    output = stage("comparisons", "--labeller", "tests.rewards:no_opinion", run=run, status=2)
    assert "tests.rewards:no_opinion returns no number for an answer to 'User:" in output


# --- real input -------------------------------------------------------------------------------------------------------


def test_a_real_llama_goes_through_every_stage(shared, tmp_path, capsys):
    model = f"pretrain: {{model: {shared}/models/stories260K}}"
    ppo = "ppo: {ptx_coef: 0, total_episodes: 32, response_length: 40}"
    recipe = write_recipe(tmp_path, f"base: {ROOT}/tests/toy.yaml\n{model}\n{ppo}\n")
    output = make_here("ppo", capsys, tmp_path / "run", recipe)
    assert f"260,032 parameters loaded from {shared}/models/stories260K; not trained" in output
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "ppo").config.model_type == "llama"


def test_every_row_that_people_wrote_is_used_or_counted(shared, tmp_path):
    recipe = write_recipe(tmp_path, f"base: human\ndata:\n  folder: {shared}\n")
    output = stage("data", run=tmp_path, recipe=recipe)
    # of 1,783 + 158
    assert "1,936 rows (5 dropped: 3 transcripts of different conversations, 2 empty completion)" in output
    assert len(re.findall(r"\d+ rows", output)) == 4


def test_files_that_do_not_exist_are_named(tmp_path):
    recipe = write_recipe(tmp_path, f"base: human\ndata:\n  folder: {tmp_path}/absent\n")
    output = stage("data", run=tmp_path, recipe=recipe, status=2)
    assert f"no file at {tmp_path}/absent/text/tinyshakespeare.txt" in output


def test_samples_alternate_between_the_tasks_of_a_file_whatever_a_task_is(toy_run, tmp_path):
    tasks = ["a", "a", "a", ["list"], {"an": "object"}, ["list"], None]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"prompt {i}", "task": t}) + "\n" for i, t in enumerate(tasks)))
    argv = ("--prompts", prompts, "--response_length", "2", "--output", tmp_path / "samples")
    for count, expected in ((3, "034"), (6, "034615"), (100, "0346152")):
        output = stage("samples", *argv, "--count", count, run=toy_run)
        assert "".join(re.findall(r"^\| prompt (\d)$", output, re.MULTILINE)) == expected


def test_a_large_file_is_announced_before_it_is_read(toy_run, tmp_path, capsys, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    sft = Stage("sft", parse_given("sft", ["--recipe", TOY, "--run", str(tmp_path / "run")]))
    sft.rows(str(rows), "demonstrations.jsonl")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(stage_module, "LARGE_FILE", 10)
    sft.rows(str(rows), "demonstrations.jsonl")
    assert capsys.readouterr().out == f"{' ' * 13}reads {rows}, 0 MB\n"


def test_a_folder_in_place_of_a_file_of_rows_is_refused(toy_run, tmp_path):
    argv = ("--demonstrations", tmp_path, "--output", tmp_path / "sft")
    assert f"{tmp_path} is a folder: name a file of rows" in stage("sft", *argv, run=toy_run, status=2)
