"""Our side of the benchmark: `rlhf` and the trainers of `stages`, as the stages run them."""

import json
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import TrainerCallback, set_seed, trainer_callback
from trl import RewardConfig, SFTConfig

from rlhf import trainer as trainer_module
from rlhf.engine import next_token_logprobs, packed_index, selected_states
from rlhf.models import load_policy, load_scorer, stop_token_ids
from rlhf.rollout import generate
from rlhf.run.placement import freeze
from rlhf.scoring import RewardFunctions, reward_model_scores
from rlhf.tokens import load_tokenizer, pad
from rlhf.trainer import PPOTrainer
from stages.common.options import PPOOptions, TrainingOptions
from stages.common.ppo_models import Models, load_models
from stages.common.training import SavingRewardTrainer, SavingSFTTrainer, in_batches, trainer_arguments
from tests.benchmarks import ablation, inputs
from tests.benchmarks.worker import Worker, run
from tests.benchmarks.workloads import SIZES, TRAINER_BATCH, TRAINER_STEPS, Workload

LEARNING_RATE = 3e-6  # TRL's default for PPO; small, so that responses keep their length


def accelerator_of(numerics: str) -> Accelerator:
    return Accelerator(mixed_precision="bf16" if numerics == "bf16" else "no")


# --- PPO and RLOO -----------------------------------------------------------------------------------------------------


def ppo(worker: Worker, workload: Workload, folder: Path, numerics: str, values: str) -> None:
    prompts = inputs.prompts(workload)[:: workload.completions]
    tokenizer = load_tokenizer(folder / "policy")
    config, accelerator = ppo_config(workload, numerics, values), accelerator_of(numerics)
    models = make_models(config, accelerator, workload, folder, tokenizer)
    policy, reward_model, reward, functions = models.policy, models.scorer, None, None
    if workload.kind.startswith("function"):
        functions = RewardFunctions({"distinct": inputs.distinct_words}, tokenizer, [{"prompt": ""}] * len(prompts))
        facts = {"models": inputs.checksum(policy)}
    else:
        facts = {
            # adapters are compared by their scores only, because TRL's side merges one into its trunk
            "models": inputs.checksum(*([models.reference] if workload.lora_r else [policy, reward_model.model])),
            **numbers_to_compare(policy, reward_model, inputs.prompts(workload)),
        }
        reward = partial(reward_model_scores, freeze(reward_model, accelerator))
    trainer = PPOTrainer(
        config, policy=policy, reference=models.reference, value_model=models.value_model,
        tokenizer=tokenizer, prompts=prompts, reward=reward, functions=functions, accelerator=accelerator,
    )  # fmt: skip
    trainer.sanity_report = "not measured"  # the sanity check runs once a run, not at every step

    seen = {}
    worker.watch(
        trainer_module, "generate",
        before=lambda model, input_ids, *args, **kwargs: seen.update(
            prompts=inputs.prompts_checksum(input_ids, tokenizer.pad_token_id)
        ),
        after=lambda responses: worker.mark("generate"),
    )  # fmt: skip
    worker.watch(trainer, "update", before=lambda *args, **kwargs: "score" in worker.phases or worker.mark("score"))
    worker.ready(**facts)
    for step in trainer.train():
        rollout = step.rollout
        tokens = {"tokens": int(rollout.attention_mask.sum()), "response_tokens": int(rollout.mask.sum())}
        worker.end("update", samples=len(rollout.mask), **tokens, **({} if functions else seen))


def ppo_config(workload: Workload, numerics: str, values: str) -> PPOOptions:
    batch = SIZES[workload.size].batch
    return PPOOptions(
        total_episodes=1000 * batch, batch_size=batch, num_ppo_epochs=workload.epochs, num_mini_batches=4,
        learning_rate=LEARNING_RATE, value_learning_rate=None, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8,
        response_length=workload.response, temperature=1.0, missing_eos_penalty=1.0, kl_coef=0.05, gamma=1.0, lam=0.95,
        cliprange=0.2, cliprange_value=0.2, vf_coef=0.1, ptx_coef=0.0, value_warmup_steps=0, share_trunk=values == "trunk",
        bf16=numerics == "bf16", num_generations=workload.completions,
        advantage_estimator="rloo" if values == "none" else "gae", lora_r=workload.lora_r or None,
    )  # fmt: skip


def make_models(config: PPOOptions, accelerator: Accelerator, workload: Workload, folder: Path, tokenizer) -> Models:
    """The models as the PPO stage loads them, and the reward model, unless a reward function takes its place."""
    scorer = str(folder / "scorer")
    models = load_models(config, accelerator, tokenizer, str(folder / "policy"), scorer)
    if models.scorer is None and not workload.kind.startswith("function"):
        models.scorer = load_scorer(scorer)
    return models


def numbers_to_compare(policy, reward_model, prompts: list[list[int]]) -> dict[str, list[float]]:
    """Log-probabilities of the last 8 tokens of four prompts, and their scores, which must be equal on both sides."""
    input_ids, attention_mask = pad(prompts[:4], inputs.PAD, "left")
    with torch.no_grad():
        last = torch.zeros_like(attention_mask)
        last[:, -8:] = 1
        index = packed_index(last, attention_mask)
        states = selected_states(policy.cpu(), input_ids, attention_mask, index - 1)
        logprobs = next_token_logprobs(states, 1.0).view(-1, 8).sum(dim=1)
        scores = reward_model.cpu()(input_ids, attention_mask, attention_mask.sum(dim=1).cumsum(dim=0) - 1)
    return {"logprobs": logprobs.tolist(), "scores": scores.tolist()}


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode(worker: Worker, workload: Workload, folder: Path, numerics: str, values: str) -> None:
    accelerator, tokenizer = accelerator_of(numerics), load_tokenizer(folder / "policy")
    policy = load_policy(folder / "policy", tokenizer).to(worker.device)
    input_ids, attention_mask = (t.to(worker.device) for t in pad(inputs.prompts(workload), inputs.PAD, "left"))
    prompts = inputs.prompts_checksum(input_ids, inputs.PAD)
    worker.ready(models=inputs.checksum(policy))
    while True:
        with accelerator.autocast():
            responses = generate(
                policy, input_ids, attention_mask, response_length=workload.response, temperature=1.0,
                stop_ids=stop_token_ids(policy, tokenizer), pad_id=inputs.PAD,
            )  # fmt: skip
        tokens = {"tokens": int(responses.attention_mask.sum()), "response_tokens": int(responses.mask.sum())}
        worker.end("generate", samples=len(input_ids), prompts=prompts, **tokens)


# --- pretraining, SFT and the reward model ----------------------------------------------------------------------------


class StepEnd(TrainerCallback):
    """Ends a step of the benchmark after TRAINER_STEPS optimizer steps of a trainer, which use every row once."""

    def __init__(self, worker: Worker, samples: int, tokens: int):
        self.worker, self.counts = worker, {"samples": samples, "tokens": tokens}

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % TRAINER_STEPS == 0:
            self.worker.end("update", **self.counts)


def training_options(numerics: str, batch_size: int) -> TrainingOptions:
    return TrainingOptions(epochs=100, batch_size=batch_size, learning_rate=1e-4, bf16=numerics == "bf16")


def sft(worker: Worker, workload: Workload, folder: Path, numerics: str, values: str) -> None:
    tokenizer = load_tokenizer(folder / "policy")
    policy = load_policy(folder / "policy", tokenizer)
    rows = inputs.documents(workload)
    lengths = [len(row["input_ids"]) for row in rows]
    dataset = Dataset.from_list([{**row, "length": length} for row, length in zip(rows, lengths, strict=True)])
    facts = {"models": inputs.checksum(policy)}
    options = training_options(numerics, TRAINER_BATCH)
    trainer = SavingSFTTrainer(
        model=policy, args=trainer_arguments(SFTConfig, options, folder / "trainer"), processing_class=tokenizer,
        train_dataset=in_batches(dataset, options), callbacks=[StepEnd(worker, len(rows), sum(lengths))],
    )  # fmt: skip
    trainer.remove_callback(trainer_callback.PrinterCallback)
    worker.ready(**facts)
    trainer.train()


def reward(worker: Worker, workload: Workload, folder: Path, numerics: str, values: str) -> None:
    tokenizer, scorer = load_tokenizer(folder / "scorer"), load_scorer(folder / "scorer")
    rows = inputs.rankings(workload)
    lengths = [[len(ids) for ids in row["sequences"]] for row in rows]
    dataset = Dataset.from_list([{**row, "length": max(each)} for row, each in zip(rows, lengths, strict=True)])
    facts = {"models": inputs.checksum(scorer.model)}
    options = training_options(numerics, TRAINER_BATCH // 2)
    trainer = SavingRewardTrainer(
        model=scorer.model, args=trainer_arguments(RewardConfig, options, folder / "trainer"),
        processing_class=tokenizer, train_dataset=in_batches(dataset, options),
        callbacks=[StepEnd(worker, len(rows), sum(map(sum, lengths)))],
    )  # fmt: skip
    trainer.remove_callback(trainer_callback.PrinterCallback)
    worker.ready(**facts)
    trainer.train()


if __name__ == "__main__":
    set_seed(0)
    side = json.loads(sys.argv[1])["side"]
    ablation.apply(side["without"], side["extra"])
    run(
        {
            "ppo": ppo,
            "rloo": ppo,
            "function-rloo": ppo,
            "function-grpo": ppo,
            "decode": decode,
            "pretrain": sft,
            "sft": sft,
            "reward": reward,
        }
    )
