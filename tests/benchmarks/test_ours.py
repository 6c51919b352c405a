"""Our side of the benchmark does the work that a workload describes, and counts it."""

import pytest

from rlhf import trainer
from tests.benchmarks import inputs, ours
from tests.benchmarks.bench import measure
from tests.benchmarks.worker import Worker
from tests.benchmarks.workloads import SIZES, TRAINER_BATCH, TRAINER_STEPS, K, Side, Workload


class Finished(Exception):
    """Leaves a workload, which otherwise runs until its process ends."""


class OneStep(Worker):
    """A worker without a parent process. It records the first step, then raises Finished."""

    def __init__(self):
        self.device, self.phases = "cpu", {}

    def ready(self, **facts):
        self.facts = facts

    def mark(self, phase):
        self.phases[phase] = None

    def end(self, phase, **counts):
        self.mark(phase)
        self.counts = counts
        raise Finished


def first_step(function, workload: Workload, folder, values: str = "model") -> OneStep:
    inputs.make_models(folder, workload)
    worker = OneStep()
    with pytest.raises(Finished):
        function(worker, workload, folder, "fp32", values)
    return worker


@pytest.mark.parametrize(("values", "lora_r"), [("model", 0), ("trunk", 0), ("none", 0), ("model", 4)])
def test_a_ppo_step_answers_every_prompt_with_the_full_length(values, lora_r, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "generate", trainer.generate)  # undoes that the worker replaces it
    workload = Workload("ppo", "width-64", response=8, completions=K if values == "none" else 1, lora_r=lora_r)
    worker = first_step(ours.ppo, workload, tmp_path, values)
    response_tokens = 8 * SIZES["width-64"].batch
    assert list(worker.phases) == ["generate", "score", "update"]
    assert worker.counts["samples"] == SIZES["width-64"].batch
    assert worker.counts["response_tokens"] == response_tokens
    if values != "none":  # RLOO draws a quarter of the prompts for each step, in random order
        assert worker.counts["tokens"] == response_tokens + sum(map(len, inputs.prompts(workload)))
    assert len(worker.facts["logprobs"]) == len(worker.facts["scores"]) == 4


def test_a_decoding_step_answers_every_prompt_with_the_full_length(tmp_path):
    workload = Workload("decode", "width-64", response=8)
    worker = first_step(ours.decode, workload, tmp_path)
    response_tokens = 8 * SIZES["width-64"].batch
    assert worker.counts["response_tokens"] == response_tokens
    assert worker.counts["tokens"] == response_tokens + sum(map(len, inputs.prompts(workload)))


@pytest.mark.parametrize(
    ("function", "kind", "samples"),
    [
        (ours.sft, "pretrain", TRAINER_BATCH * TRAINER_STEPS),
        (ours.sft, "sft", TRAINER_BATCH * TRAINER_STEPS),
        (ours.reward, "reward", TRAINER_BATCH // 2 * TRAINER_STEPS),
    ],
)
def test_a_step_of_a_trainer_uses_every_row_once(function, kind, samples, tmp_path, monkeypatch):
    used = []
    for class_name in ("SavingSFTTrainer", "SavingRewardTrainer"):
        trainer_class = getattr(ours, class_name)

        def training_step(self, model, inputs, *args, step=trainer_class.training_step, **kwargs):
            used.append(int(inputs["attention_mask"].sum()))
            return step(self, model, inputs, *args, **kwargs)

        monkeypatch.setattr(trainer_class, "training_step", training_step)
    workload = Workload(kind, "width-64", response=8, completions=K)
    worker = first_step(function, workload, tmp_path)
    assert worker.counts == {"samples": samples, "tokens": sum(used)}
    assert len(used) == TRAINER_STEPS


@pytest.mark.slow
def test_sides_in_processes_of_their_own_do_the_same_work():
    workload = Workload("ppo", "width-64", response=4)
    sides = [Side("ours", without="packing"), Side("ours")]
    steps = measure(workload, sides, {}, threads=1, rounds=1)
    assert list(steps) == sides
    for (step,) in steps.values():
        assert (step["samples"], step["updates"], step["response_tokens"]) == (64, 4, 4 * 64)
        assert sum(cpu for cpu, _ in step["phases"].values()) == pytest.approx(step["cpu"])
