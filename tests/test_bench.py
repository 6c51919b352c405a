"""The benchmark's arithmetic, and its table of rows; it runs neither side."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from rlhf import asked, attention, forward, kernels, models, rollout, trainer
from rlhf.data import pad
from rlhf.reward import pad_ranks, score_together
from tests.benchmarks import ablation, inputs
from tests.benchmarks.bench import agree, chosen, groups, line, ratios, row, same
from tests.benchmarks.workloads import COMPARISONS, SIZES, Side, Workload
from tests.conftest import scorer_of, tiny_gpt2
from tests.test_trainer import make_trainer

ROOT = Path(__file__).parent.parent
PEAK = {"fp32": 100.0, "bf16": 400.0}
FIELDS = ("name", "numerics", "like_for_like", "ratio", "ratio_min", "ratio_max", "ours", "theirs", "unit", "target")


def step(cpu: float, memory_mb: float = 100.0, tokens: int = 1000) -> dict:
    """A step as a worker reports it: half of it generates, and it takes twice its CPU time."""
    phases = {"generate": [cpu / 2, cpu], "score": [cpu / 4, cpu / 2], "update": [cpu / 4, cpu / 2]}
    return {"cpu": cpu, "wall": 2 * cpu, "phases": phases, "memory_mb": memory_mb, "tokens": tokens}


def made(name: str, gpu: bool = False) -> dict:
    """A row of three pairs of steps, whose ratios are 2, 4 and 3."""
    ours = [step(1.0, 100.0), step(2.0, 150.0), step(1.0, 200.0)]
    theirs = [step(2.0, 100.0), step(8.0, 300.0), step(3.0, 500.0)]
    return row(COMPARISONS[name], ours, theirs, PEAK, gpu)


def test_a_ratio_is_the_median_over_pairs_not_the_ratio_of_medians():
    assert ratios([2.0, 8.0, 3.0], [1.0, 2.0, 1.0]) == {"ratio": 3.0, "ratio_min": 2.0, "ratio_max": 4.0}
    # medians alone would say 9 / 3
    assert ratios([9.0, 1.0, 10.0], [3.0, 1.0, 10.0])["ratio"] == 1.0


def test_a_row_has_all_fields_and_survives_json():
    found = made("ppo-tiny-1-fp32")
    assert set(FIELDS) <= found.keys()
    assert json.loads(json.dumps(found)) == found
    assert (found["ratio"], found["ours"], found["theirs"], found["target"]) == (3.0, 1.0, 3.0, 2.0)
    assert found["ours_detail"]["split"] == {"generate": 0.5, "score": 0.25, "update": 0.25}
    assert found["ours_detail"]["tokens_per_second"] == 1000
    assert made("ppo-tiny-1-fp32", gpu=True)["ours"] == 2.0  # wall time


def test_memory_is_compared_by_its_peak():
    found = made("memory-gpt2-fp32")
    assert (found["ratio"], found["ours"], found["theirs"]) == (2.5, 200.0, 500.0)
    early = row(
        COMPARISONS["memory-gpt2-fp32"], [step(1.0, 250.0), step(1.0)], [step(1.0), step(1.0, 500.0)], PEAK, False
    )
    assert early["ratio"] == 2.0  # in whichever step it was


def test_a_row_that_is_not_like_for_like_says_why():
    for comparison in COMPARISONS.values():
        assert comparison.like_for_like or comparison.note
        ours, theirs = comparison.ours, comparison.theirs
        assert comparison.like_for_like == ((ours.numerics, ours.values) == (theirs.numerics, theirs.values))
    assert "bf16 against fp32" in made("ppo-tiny-1-bf16")["numerics"]
    assert "†" in line(made("ppo-tiny-1-bf16")) and "†" not in line(made("ppo-tiny-1-fp32"))


def test_the_share_of_the_peak_follows_from_the_formula():
    # a policy of 4 * 12 * 128² + 1024 * 128 parameters decodes 1000 tokens in a second: 2 operations for each
    found = row(COMPARISONS["decode-tiny-fp32"], [step(1.0)], [step(1.0)], PEAK, gpu=False)
    assert found["ours_detail"]["peak_fraction"] == pytest.approx(2 * 917_504 * 1000 / 100e9)
    # generate, reference, value, reward: 4 passes; update: 3 for each of 2 models and epoch
    one, four = (Workload("ppo", "tiny", epochs).flops(1) for epochs in (1, 4))
    assert four - one == 3 * (one - Workload("ppo", "tiny", 0).flops(1))
    assert Workload("ppo", "tiny", 0).flops(1) == 2 * (2 * 917_504 + 2 * 786_432)


def test_list_names_every_row_without_running_anything():
    shown = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == list(COMPARISONS)


def test_only_takes_names_and_refuses_others():
    assert [c.name for c in chosen(["sft-tiny-*"])] == ["sft-tiny-fp32", "sft-tiny-bf16"]
    with pytest.raises(SystemExit, match="no row 'ppo-huge'"):
        chosen(["sft-tiny-fp32", "ppo-huge"])


def test_every_row_is_measured_in_one_group_with_one_peer():
    found = [comparison for group in groups(chosen(None)) for comparison in group]
    assert sorted(c.name for c in found) == sorted(COMPARISONS)
    for group in groups(chosen(None)):
        assert len({(c.workload, c.theirs) for c in group}) == 1


def test_sides_that_do_not_do_the_same_are_refused():
    workload, ours, theirs = Workload("ppo", "tiny"), Side("ours"), Side("TRL 1.12")
    agree(workload, {ours: {"models": "a", "logprobs": [-1.0]}, theirs: {"models": "a", "logprobs": [-1.0001]}})
    with pytest.raises(RuntimeError, match="logprobs"):
        agree(workload, {ours: {"models": "a", "logprobs": [-1.0]}, theirs: {"models": "a", "logprobs": [-1.1]}})
    with pytest.raises(RuntimeError, match="models"):
        agree(workload, {ours: {"models": "a"}, theirs: {"models": "b"}})
    with pytest.raises(RuntimeError, match="updates"):
        same(workload, "updates", {ours: [16], theirs: [4]})


def test_responses_end_where_the_workload_says(tmp_path):
    from rlhf.models import load_policy, load_tokenizer
    from rlhf.rollout import generate

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


def test_pairs_of_a_ranking_are_all_of_them_the_better_one_first():
    ranked = [{"sequences": [[5], [6], [7]], "ranks": [2, 0, 1]}]
    assert [(pair["chosen_ids"], pair["rejected_ids"]) for pair in inputs.pairs(ranked)] == [
        ([6], [7]),
        ([6], [5]),
        ([7], [5]),
    ]


def test_the_inputs_are_the_same_wherever_they_are_made():
    workload = Workload("ppo", "tiny")
    assert inputs.prompts(workload) == inputs.prompts(workload)
    assert len(inputs.prompts(workload)) == SIZES["tiny"].batch
    assert {len(prompt) for prompt in inputs.prompts(workload)} <= set(range(24, 41))


# --- what each saving gains -------------------------------------------------------------------------------------------

SAVINGS = [comparison.theirs.without for comparison in COMPARISONS.values() if comparison.theirs.without]


def ppo_step(tokenizer) -> dict[str, float]:
    """The first of a run whose responses and prompts repeat and end early."""
    options = {"batch_size": 16, "total_episodes": 16, "response_length": 12, "num_mini_batches": 2}
    return next(make_trainer(tokenizer, tiny_gpt2, **options).train()).metrics


def ranking_step() -> dict[str, float]:
    """Scores of completions of two prompts, and their gradient; how many tokens went through the model is not compared."""
    model = scorer_of(tiny_gpt2()).model
    input_ids, attention_mask = pad([[5, 6, 7, 8], [5, 6, 9], [5, 6, 7], [20, 21], [20, 22, 23]], 1, "right")
    scores = score_together(model, input_ids, attention_mask, pad_ranks([[0, 1, 2], [1, 0]])).logits[:, 0]
    (scores * torch.linspace(-1, 1, 5)).sum().backward()
    norms = {name: float(parameter.grad.norm()) for name, parameter in model.named_parameters()}
    return {**norms, **{str(i): float(score) for i, score in enumerate(scores)}}


@pytest.mark.parametrize("saving", SAVINGS)
def test_every_saving_can_be_taken_out_and_a_step_is_the_same_without_it(saving, tokenizer):
    """A step of PPO, or of the reward model where the saving is its own; the same to rounding."""
    modules = (asked, attention, forward, kernels, models, rollout, trainer)
    before = [dict(vars(module)) for module in modules]
    of_rankings = ("shared-prompts", "last-layer-where-needed")
    step = ranking_step if saving in of_rankings else partial(ppo_step, tokenizer)
    usual = step()
    try:
        ablation.apply(saving)
        changed = [
            name
            for module, old in zip(modules, before, strict=True)
            for name in vars(module)
            if vars(module)[name] is not old.get(name)
        ]
        assert changed and all(any(name in old for old in before) for name in changed)  # nothing that is not there
        assert step() == pytest.approx(usual, rel=1e-3, abs=1e-5)
    finally:
        for module, old in zip(modules, before, strict=True):
            vars(module).update(old)
