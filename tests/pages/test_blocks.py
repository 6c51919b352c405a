"""Blocks of pages are made from the files, for one run and several, and for every program."""

import json

import pytest

from tests.pages import measured, programs, results, sample_output
from tests.pages.__main__ import publish
from tests.pages.blocks import rewritten
from tests.pages.measured import PUBLISHED, Missing, merge, record, where
from tests.survivors import by_file


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder in place of docs/measured, with a copy of the run tiny."""
    monkeypatch.setattr(measured, "PUBLISHED", tmp_path)
    runs = json.loads((PUBLISHED / "runs.json").read_text())
    (tmp_path / "runs.json").write_text(json.dumps({"tiny": runs["tiny"]}))
    return tmp_path


def change(folder, edit):
    """Changes the numbers of the run tiny in the file."""
    runs = json.loads((folder / "runs.json").read_text())
    edit(runs)
    (folder / "runs.json").write_text(json.dumps(runs))


def block(name, text):
    return f"# Page\n\n<!-- measured: {name} -->\n{text}<!-- end -->\n"


# --- what the checker catches -----------------------------------------------------------------------------------------


def test_a_number_that_was_changed_on_the_page_is_caught(published):
    page = rewritten(block("default", ""))
    assert rewritten(page) == page
    gold = f"{json.loads((published / 'runs.json').read_text())['tiny']['numbers']['evaluate']['sft']['gold']:.2f}"
    typed = page.replace(gold, "4.99")
    assert typed != page and rewritten(typed) == page


def test_a_page_that_is_older_than_its_file_is_caught(published):
    page = rewritten(block("output", ""))

    def one_more(runs):
        runs["tiny"]["numbers"]["log"][-1]["gold"] += 0.01

    change(published, one_more)
    assert rewritten(page) != page


def test_an_unknown_block_is_an_error(published):
    with pytest.raises(KeyError, match="nonsense"):
        rewritten(block("nonsense", ""))


def test_a_block_without_a_file_names_the_command(published):
    assert "Not measured yet: `make evaluate RECIPE=human`." in rewritten(block("human", "\n0.99\n"))


# --- runs -------------------------------------------------------------------------------------------------------------


def add_seeds(runs):
    """Copies of the run with other seeds, whose gold is 1 and 2 higher."""
    for seed in (1, 2):
        run = runs[f"tiny-seed{seed}"] = json.loads(json.dumps(runs["tiny"]))
        run["numbers"]["seed"] = seed
        run["numbers"]["evaluate"]["ppo"]["gold"] += seed


def test_with_several_seeds_the_tables_have_their_median(published):
    gold = json.loads((published / "runs.json").read_text())["tiny"]["numbers"]["evaluate"]["ppo"]["gold"]
    assert "median" not in results.default() + results.summary()
    change(published, add_seeds)
    assert "| seed 0 | seed 1 | seed 2 | median |" in results.default()
    assert f"**{gold + 1:.2f} /" in results.default()
    assert "| median of 3 seeds, held-out prompts |" in results.summary()
    assert f"**{gold + 1:.1f} /" in results.summary()


def test_a_run_with_options_of_the_command_line_is_no_run_of_the_recipe(published):
    change(published, lambda runs: runs["tiny"]["numbers"].update(arguments=["--kl_coef", "0.2"]))
    with pytest.raises(Missing):
        results.default()


def test_the_sample_output_has_the_answers_and_the_last_step_of_the_run(published):
    run = json.loads((published / "runs.json").read_text())["tiny"]["numbers"]
    text = sample_output.output()
    assert f"{run['log'][-1]['score']:9.2f}{run['log'][-1]['gold']:9.2f}{run['log'][-1]['kl']:9.2f}" in text
    assert f"{run['tokens']:,} tokens" in text
    assert "I will not help you trick Clara" in text


# --- programs ---------------------------------------------------------------------------------------------------------


def bench_row(name, ratio=2.0, target=None, unit="CPU s a step"):
    detail = {"memory_mb": 1234.4}
    return {
        "ratio": ratio, "ratio_min": ratio - 0.1, "ratio_max": ratio + 0.1, "ours": 1.5, "theirs": 3.0, "unit": unit,
        "target": target, "like_for_like": "trunk" not in name, "wall_ratio": 2.25, "ours_detail": detail,
        "theirs_detail": detail, "peak_gflops": {"fp32": 95.2, "bf16": 212.0},
    }  # fmt: skip


def test_the_tables_of_the_benchmark(published):
    names = ("ppo-tiny-1-fp32", "ppo-tiny-1-trunk-bf16", "memory-gpt2-fp32", "without-packing", "lora-gpt2-fp32")
    record("bench", {name: bench_row(name, target=1.6) for name in names}, published)
    assert "| ppo-tiny-1-fp32 | **2.00** (1.90–2.10) | 1.6 | 1.50 | 1,234 / 1,234 |" in programs.bench()
    assert "| ppo-tiny-1-trunk-bf16 † |" in programs.bench() and "packing" not in programs.bench()
    assert "| memory-gpt2-fp32 | **2.00** | 1.6 | 1,234 / 1,234 | 2.25 |" in programs.bench_memory()
    assert "| PPO, tiny, 1 epoch | **2.00** | 1.6 | | |" in programs.bench_summary()
    assert "| PPO, tiny, head on the trunk † | | | **2.00** | 1.6 |" in programs.bench_summary()
    assert (
        "| `packing` | ppo, tiny, early eos | **2.00** (1.90–2.10) | 1.50 | 3.00 | CPU s a step |"
        in programs.bench_ablation()
    )
    assert "| `lora-gpt2-fp32`, CPU s a step | 1.5 | 3.0 | **2.00** (1.90–2.10) | 1.6 |" in programs.bench_lora()


def test_a_ratio_below_its_target_is_not_bold():
    assert programs.ratio(bench_row("a", ratio=1.5, target=1.6)) == "1.50"
    assert programs.ratio(bench_row("a")) == "2.00"


def test_the_table_of_time_to_quality(published):
    times = {("ours", "recipe"): 20.0, ("TRL 1.12 PPO", "recipe"): 100.0, ("TRL 1.12 RLOO", "of 4"): None}
    curves = {
        f"{side}, {name}, seed {seed}": {
            "side": side, "name": name, "seed": seed, "seconds": seconds and seconds + seed,
            "points": [[0.0, 4.0], [200.0, 5.5]],
        }
        for (side, name), seconds in times.items()
        for seed in range(4)
    }  # fmt: skip
    record("quality", curves, published)
    text = programs.quality()
    assert "| TRL 1.12 PPO, recipe | 101, 102, 103 | 102 | 4.6 |" in text  # 102 / 22
    assert "| TRL 1.12 RLOO, of 4 | not reached, not reached, not reached | not reached | – |" in text
    assert "| ours, recipe | 20 | 200 | 5.50 |" in text


def test_the_tables_of_growth_kill_mutation_and_the_sitting(published):
    point = {"seconds": 1.0, "memory_mb": 100.0, "parameters": 1000}
    points = {32: point, 256: {**point, "seconds": 6.0, "memory_mb": 450.0}}
    record("growth", {"responses in a PPO step": points}, published)
    assert "| responses in a PPO step, 32 → 256 | 8 | 6.0 | 4.5 |" in programs.growth()
    record("kill", {"ppo": {"interruptions": 100, "SIGKILL": 82, "SIGTERM": 18, "runs compared": 20}}, published)
    assert "| ppo | 100 | 82 | 18 | 0 | 20 |" in programs.kill()
    ended = {"rlhf.ppo.x_rloo__mutmut_1": "killed", "rlhf.ppo.x_gae__mutmut_2": "survived"}
    record("mutation", by_file({**ended, "rlhf.reward.x_a__mutmut_1": "killed"}), published)
    assert "| `rlhf/ppo.py` | 2 | 1 | 50.0% |\n| `rlhf/reward.py` | 1 | 1 | 100.0% |" in programs.mutation()
    record("sitting", {"brief": {"rater": "brief", "accuracy": "0.832 [0.815, 0.849]"}}, published)
    assert "| rater | accuracy |\n|---|---|\n| brief | 0.832 [0.815, 0.849] |" in programs.sitting()


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_later_entry_replaces_the_one_of_its_name_only(tmp_path):
    path = record("numbers", {"a": 1, "b": 2}, tmp_path)
    record("numbers", {"b": 3}, tmp_path)
    entries = json.loads(path.read_text())
    assert {name: one["numbers"] for name, one in entries.items()} == {"a": 1, "b": 3}
    assert all(one["date"] and one["machine"] for one in entries.values())
    assert len(path.read_text().splitlines()) == 2 + len(entries)


def test_the_dates_and_machines_of_several_entries_are_told():
    entries = {
        "a": {"date": "2026-11-28", "machine": "2 cores"},
        "b": {"date": "2026-11-24", "machine": "2 cores"},
        "c": {"date": "2026-11-28", "machine": ""},
    }
    assert where(entries) == "2026-11-24 to 2026-11-28, 2 cores"
    assert where({"c": entries["c"]}) == "2026-11-28"


def test_publishing_a_file_adds_its_entries(published, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.pages.__main__.PUBLISHED", published)
    path = merge("kill", {"ppo": {"date": "2026-11-28", "machine": "", "numbers": {}}}, tmp_path / "written")
    assert json.loads(publish(path).read_text()) == json.loads(path.read_text())


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_publishing_a_run_takes_its_numbers_from_the_files_of_its_stages(published, tmp_path, monkeypatch):
    """A recipe that has a reward function in place of comparisons and a reward model."""
    monkeypatch.setattr("tests.pages.__main__.PUBLISHED", published)
    run = tmp_path / "sums"
    options = {"recipe": "sums", "seed": 3, "batch_size": 64, "count": 50, "epochs": 2}
    for stage in ("data", "pretrain", "sft", "ppo", "evaluate"):
        done = {"options": options, "arguments": [], "seconds": 5.0, "finished": "2026-11-28T10:00:00+00:00"}
        write(run / stage / "stage.json", done)
    metrics = {"gold": 0.9, "gold_low": 0.85, "gold_high": 0.95}
    write(run / "evaluate" / "metrics.json", {"sft": {"gold": 0.25}, "ppo": metrics, "seconds": {}})
    (run / "ppo" / "log.jsonl").write_text('{"step": 0}\n{"step": 1, "kl": 0.0}\n{"step": 2, "kl": 1.5}\n')
    numbers = json.loads(publish(run).read_text())["sums"]["numbers"]
    assert (numbers["seed"], numbers["prompts"], numbers["log"][-1]["kl"]) == (3, 50, 1.5)
    assert numbers["seconds"] == dict.fromkeys(("data", "pretrain", "sft", "ppo"), 5.0)
    assert "| | sft | ppo |\n|---|---|---|\n| gold | 0.25 | 0.90 [0.85, 0.95] |" in results.other("sums")
