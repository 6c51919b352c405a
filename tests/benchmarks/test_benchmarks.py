"""The benchmark's arithmetic, its table and its inputs; no test measures time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlhf.models import load_policy
from rlhf.rollout import generate
from rlhf.tokens import load_tokenizer, pad
from tests.benchmarks import inputs
from tests.benchmarks.bench import check_equal, check_facts, groups, markdown_line, ratios, select, table_row
from tests.benchmarks.workloads import COMPARISONS, SIZES, Side, Workload

ROOT = Path(__file__).parents[2]
PEAK = {"fp32": 100.0, "bf16": 400.0}
FIELDS = ("name", "numerics", "like_for_like", "ratio", "ratio_min", "ratio_max", "ours", "theirs", "unit", "target")


def step(cpu: float, memory_mb: float = 100.0, tokens: int = 1000) -> dict:
    """A step as a worker reports it: half of it is generation, and wall time is twice CPU time."""
    phases = {"generate": [cpu / 2, cpu], "score": [cpu / 4, cpu / 2], "update": [cpu / 4, cpu / 2]}
    return {"cpu": cpu, "wall": 2 * cpu, "phases": phases, "memory_mb": memory_mb, "tokens": tokens}


def row_of(name: str, gpu: bool = False) -> dict:
    """The row of a comparison with three pairs of steps, whose ratios are 2, 4 and 3."""
    ours = [step(1.0, 100.0), step(2.0, 150.0), step(1.0, 200.0)]
    theirs = [step(2.0, 100.0), step(8.0, 300.0), step(3.0, 500.0)]
    return table_row(COMPARISONS[name], ours, theirs, PEAK, gpu)


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_over_pairs_not_the_ratio_of_medians():
    assert ratios([2.0, 8.0, 3.0], [1.0, 2.0, 1.0]) == {"ratio": 3.0, "ratio_min": 2.0, "ratio_max": 4.0}
    # the ratio of the medians would be 9 / 3
    assert ratios([9.0, 1.0, 10.0], [3.0, 1.0, 10.0])["ratio"] == 1.0


def test_a_row_has_all_fields_and_survives_json():
    row = row_of("ppo-tiny-1-fp32")
    assert set(FIELDS) <= row.keys()
    assert json.loads(json.dumps(row)) == row
    assert (row["ratio"], row["ours"], row["theirs"], row["target"]) == (3.0, 1.0, 3.0, 2.0)
    assert row["ours_detail"]["split"] == {"generate": 0.5, "score": 0.25, "update": 0.25}
    assert row["ours_detail"]["tokens_per_second"] == 1000
    assert row_of("ppo-tiny-1-fp32", gpu=True)["ours"] == 2.0  # wall time


def test_memory_is_compared_by_its_peak_over_all_steps():
    row = row_of("memory-gpt2-fp32")
    assert (row["ratio"], row["ours"], row["theirs"]) == (2.5, 200.0, 500.0)
    other_steps = table_row(
        COMPARISONS["memory-gpt2-fp32"], [step(1.0, 250.0), step(1.0)], [step(1.0), step(1.0, 500.0)], PEAK, False
    )
    assert other_steps["ratio"] == 2.0  # 500 / 250


def test_the_fraction_of_the_peak_follows_from_the_formula():
    # a policy of 4 * 12 * 128² + 1024 * 128 parameters decodes 1000 tokens in a second, with 2 operations for each
    row = table_row(COMPARISONS["decode-tiny-fp32"], [step(1.0)], [step(1.0)], PEAK, gpu=False)
    assert row["ours_detail"]["peak_fraction"] == pytest.approx(2 * 917_504 * 1000 / 100e9)
    # generation, reference, value and reward: 4 passes; an update: 3 for each of 2 models and each epoch
    one, four = (Workload("ppo", "tiny", epochs).flops(1) for epochs in (1, 4))
    assert four - one == 3 * (one - Workload("ppo", "tiny", 0).flops(1))
    assert Workload("ppo", "tiny", 0).flops(1) == 2 * (2 * 917_504 + 2 * 786_432)
    # with adapters an update does not need the gradients of the weights, a third of it
    frozen = Workload("ppo", "tiny", lora_r=16).flops(1)
    assert frozen - Workload("ppo", "tiny", 0).flops(1) == pytest.approx(2 / 3 * (four - one) / 3)


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_row_that_is_not_like_for_like_has_a_note_and_a_mark():
    for comparison in COMPARISONS.values():
        assert comparison.like_for_like or comparison.note
        ours, theirs = comparison.ours, comparison.theirs
        assert comparison.like_for_like == ((ours.numerics, ours.values) == (theirs.numerics, theirs.values))
    assert "bf16 against fp32" in row_of("ppo-tiny-1-bf16")["numerics"]
    assert "†" in markdown_line(row_of("ppo-tiny-1-bf16"))
    assert "†" not in markdown_line(row_of("ppo-tiny-1-fp32"))


def test_list_prints_the_name_of_every_row():
    listed = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert listed.stdout.split() == list(COMPARISONS)


def test_only_accepts_patterns_of_names_and_refuses_others():
    assert [c.name for c in select(["sft-tiny-*"])] == ["sft-tiny-fp32", "sft-tiny-bf16"]
    with pytest.raises(SystemExit, match="no row 'ppo-huge'"):
        select(["sft-tiny-fp32", "ppo-huge"])


def test_every_row_is_measured_once_in_a_group_with_one_workload_and_one_peer():
    measured = [comparison for group in groups(select(None)) for comparison in group]
    assert sorted(c.name for c in measured) == sorted(COMPARISONS)
    for group in groups(select(None)):
        assert len({(c.workload, c.theirs) for c in group}) == 1


def test_sides_that_do_different_work_are_refused():
    workload, ours, theirs = Workload("ppo", "tiny"), Side("ours"), Side("TRL 1.12")
    check_facts(workload, {ours: {"models": "a", "logprobs": [-1.0]}, theirs: {"models": "a", "logprobs": [-1.0001]}})
    with pytest.raises(RuntimeError, match="logprobs"):
        check_facts(workload, {ours: {"models": "a", "logprobs": [-1.0]}, theirs: {"models": "a", "logprobs": [-1.1]}})
    with pytest.raises(RuntimeError, match="models"):
        check_facts(workload, {ours: {"models": "a"}, theirs: {"models": "b"}})
    with pytest.raises(RuntimeError, match="updates"):
        check_equal(workload, "updates", {ours: [16], theirs: [4]})


# --- the inputs -------------------------------------------------------------------------------------------------------


def test_responses_have_the_length_that_the_workload_promises(tmp_path):
    lengths = {}
    for eos in (False, True):
        workload = Workload("decode", "tiny", eos=eos)
        inputs.make_models(tmp_path, workload)
        tokenizer = load_tokenizer(tmp_path / "policy")
        responses = generate(
            load_policy(tmp_path / "policy", tokenizer), *pad(inputs.prompts(workload) * (4 if eos else 1), inputs.PAD, "left"),
            response_length=48, temperature=1.0, stop_ids=[inputs.EOS], pad_id=inputs.PAD,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        lengths[eos] = float(responses.lengths.float().mean())
    assert lengths[False] == 48
    assert lengths[True] == pytest.approx(25, abs=2)


def test_the_pairs_of_a_ranking_are_all_of_them_with_the_better_one_chosen():
    ranking = [{"sequences": [[5], [6], [7]], "ranks": [2, 0, 1]}]
    assert [(pair["chosen_ids"], pair["rejected_ids"]) for pair in inputs.pairs(ranking)] == [
        ([6], [7]),
        ([6], [5]),
        ([7], [5]),
    ]


def test_prompts_are_the_same_each_time_and_of_the_promised_number_and_lengths():
    workload = Workload("ppo", "tiny")
    assert inputs.prompts(workload) == inputs.prompts(workload)
    assert len(inputs.prompts(workload)) == SIZES["tiny"].batch
    assert {len(prompt) for prompt in inputs.prompts(workload)} <= set(range(24, 41))


# --- the command line of make quality ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "arguments", "run"),
    [
        ({}, [], "runs/tiny"),
        ({"RUN": ""}, [], "runs/tiny"),
        ({"RUN": "runs/other"}, [], "runs/other"),
        ({"SEED": "2"}, [], "runs/tiny-seed2"),
        ({"RUN": "runs/other"}, ["--run", "runs/third"], "runs/third"),
    ],
)
def test_quality_reads_the_run_of_its_option_else_of_the_environment(tmp_path, environment, arguments, run):
    inherited = {name: value for name, value in os.environ.items() if name != "RUN"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.quality", *arguments], cwd=tmp_path, capture_output=True, text=True,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert result.returncode == 1
    assert f"no finished reward model in {run}:" in result.stderr
