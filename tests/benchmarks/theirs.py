"""The other side of the benchmark: TRL's trainers and transformers' `generate`, as they come.

PPO runs in an environment with TRL 1.12.0, the last release that has it; the rest in ours. What has a default that costs
time where we have none (gradient checkpointing) is switched off, so that both sides do the same work.
"""

from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from tests.benchmarks import inputs
from tests.benchmarks.worker import Worker, run
from tests.benchmarks.workloads import SIZES, TRAINER_BATCH, TRAINER_STEPS, K, Workload

ENOUGH = 1000  # steps that a trainer is prepared for


class Ends(TrainerCallback):
    """Ends a step of the benchmark after every so many of the trainer's."""

    def __init__(self, worker: Worker, steps: int, counts: dict):
        self.worker, self.steps, self.counts = worker, steps, counts

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.steps == 0:
            self.worker.end("update", **self.counts)


def load(auto_class, folder: Path, dtype=torch.float32, **kwargs):
    return auto_class.from_pretrained(folder, dtype=dtype, **kwargs)


def ppo(worker: Worker, workload: Workload, folder: Path, numerics: str, values: str) -> None:
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    size, prompts = SIZES[workload.size], inputs.prompts(workload)
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    policy, reference = (load(AutoModelForCausalLM, folder / "policy") for _ in range(2))
    value_model, reward_model = (
        load(AutoModelForSequenceClassification, folder / "scorer", num_labels=1) for _ in range(2)
    )
    config = PPOConfig(
        output_dir=str(folder / "trainer"), total_episodes=ENOUGH * size.batch, num_ppo_epochs=workload.epochs,
        per_device_train_batch_size=size.batch, gradient_accumulation_steps=1, num_mini_batches=4,
        local_rollout_forward_batch_size=size.batch, learning_rate=3e-6, response_length=workload.response,
        temperature=1.0, stop_token="eos", missing_eos_penalty=1.0, kl_coef=0.05, gamma=1.0, lam=0.95, cliprange=0.2,
        cliprange_value=0.2, vf_coef=0.1, num_sample_generations=0, gradient_checkpointing=False, bf16=False,
        report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    facts = {"models": inputs.checksum(policy, reward_model), **probe(ppo_trainer, policy, reward_model, prompts)}
    counts = {"samples": size.batch}
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward_model,
        value_model=value_model, train_dataset=Dataset.from_dict({"input_ids": prompts}),
        # it makes a loader of this even if it evaluates nothing
        eval_dataset=Dataset.from_dict({"input_ids": prompts[:1]}), callbacks=[Ends(worker, 1, counts)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)

    def generated(result) -> None:
        worker.mark("generate")
        responses = result[0][:, -workload.response :]
        ends = (responses == inputs.EOS).int()
        grown = int((ends.cumsum(dim=1) - ends == 0).sum())  # up to the first eos, and it
        counts.update(tokens=grown + sum(map(len, prompts)), response_tokens=grown)

    worker.watch(
        ppo_trainer, "batch_generation",
        before=lambda model, queries, *args: counts.update(prompts=inputs.prompts_checksum(queries, inputs.PAD)),
        after=generated,
    )  # fmt: skip
    # the update begins with the first forward pass of policy and value model together
    worker.watch(
        ppo_trainer, "forward",
        before=lambda model, *args: model is not trainer.model or "score" in worker.phases or worker.mark("score"),
    )  # fmt: skip
    worker.ready(**facts)
    trainer.train()


def rloo(worker: Worker, workload: Workload, folder: Path, numerics: str, values: str) -> None:
    from trl import RLOOConfig, RLOOTrainer
    from trl.experimental.ppo import ppo_trainer

    size, prompts = SIZES[workload.size], inputs.prompts(workload)[:: workload.completions]
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    policy = load(AutoModelForCausalLM, folder / "policy")
    reward_model = load(AutoModelForSequenceClassification, folder / "scorer", num_labels=1).eval().to(worker.device)

    def score(prompts, completion_ids, **kwargs):
        """The reward model's score of each response, less 1 where it did not end."""
        rows = [tokenizer(prompt)["input_ids"] + ids for prompt, ids in zip(prompts, completion_ids, strict=True)]
        batch = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt").to(worker.device)
        with torch.no_grad():
            scores = reward_model(**batch).logits[:, 0].float().tolist()
        return [score - (ids[-1] != inputs.EOS) for score, ids in zip(scores, completion_ids, strict=True)]

    config = RLOOConfig(
        output_dir=str(folder / "trainer"), max_steps=4 * ENOUGH, per_device_train_batch_size=size.batch // 4,
        gradient_accumulation_steps=1, steps_per_generation=4, num_iterations=workload.epochs,
        num_generations=workload.completions, learning_rate=3e-6, beta=0.05, max_completion_length=workload.response,
        temperature=1.0, top_k=0, top_p=1.0, normalize_advantages=True, epsilon=0.2, disable_dropout=True,
        gradient_checkpointing=False, bf16=numerics == "bf16", report_to="none", save_strategy="no", disable_tqdm=True,
        use_cpu=not worker.cuda,
    )  # fmt: skip
    facts = {
        "models": inputs.checksum(policy, reward_model),
        **probe(ppo_trainer, policy, reward_model.cpu(), inputs.prompts(workload)),
    }
    reward_model.to(worker.device)
    counts = {"samples": size.batch}
    trainer = RLOOTrainer(
        model=policy, reward_funcs=score, args=config, processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": tokenizer.batch_decode(prompts)}), callbacks=[Ends(worker, 4, counts)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)

    def generated(result) -> None:
        worker.mark("generate")
        prompt_ids, completion_ids = result[:2]
        grown = sum(map(len, completion_ids))
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in prompt_ids], True, inputs.PAD)
        counts.update(
            tokens=grown + sum(map(len, prompt_ids)), response_tokens=grown,
            prompts=inputs.prompts_checksum(padded, inputs.PAD),
        )  # fmt: skip

    worker.watch(trainer, "_generate", after=generated)
    worker.watch(trainer, "_generate_and_score_completions", after=lambda result: worker.mark("score"))
    worker.ready(**facts)
    trainer.train()


def probe(ppo_trainer, policy, reward_model, prompts: list[list[int]]) -> dict[str, list[float]]:
    """Log-probabilities of the last 8 tokens of some prompts, and their scores: both sides must say the same."""
    width = max(map(len, prompts[:4]))
    rows = torch.tensor([[inputs.PAD] * (width - len(ids)) + ids for ids in prompts[:4]])
    with torch.no_grad():
        logits = ppo_trainer.forward(policy, rows, inputs.PAD).logits[:, -9:-1]
        _, scores, _ = ppo_trainer.get_reward(reward_model, rows, inputs.PAD, width - 8)
    logprobs = ppo_trainer.selective_log_softmax(logits, rows[:, -8:]).sum(dim=1)
    return {"logprobs": logprobs.tolist(), "scores": scores.tolist()}


def decode(worker: Worker, workload: Workload, folder: Path, numerics: str, values: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    dtype = torch.bfloat16 if numerics == "bf16" else torch.float32
    policy = load(AutoModelForCausalLM, folder / "policy")
    facts = {"models": inputs.checksum(policy)}
    policy = policy.to(worker.device, dtype).eval()
    batch = tokenizer.pad({"input_ids": inputs.prompts(workload)}, return_tensors="pt").to(worker.device)
    seen = inputs.prompts_checksum(batch["input_ids"], inputs.PAD)
    worker.ready(**facts)
    while True:
        rows = policy.generate(
            **batch, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=workload.response,
            eos_token_id=inputs.EOS, pad_token_id=inputs.PAD,
        )  # fmt: skip
        grown = int((rows[:, batch["input_ids"].shape[1] :] != inputs.PAD).sum())
        tokens = {"tokens": grown + int(batch["attention_mask"].sum()), "response_tokens": grown}
        worker.end("generate", samples=len(rows), prompts=seen, **tokens)


def arguments(worker: Worker, config_class, folder: Path, numerics: str, batch_size: int):
    return config_class(
        output_dir=str(folder / "trainer"), num_train_epochs=ENOUGH, per_device_train_batch_size=batch_size,
        learning_rate=1e-4, bf16=numerics == "bf16", gradient_checkpointing=False, report_to="none", save_strategy="no",
        disable_tqdm=True, use_cpu=not worker.cuda,
    )  # fmt: skip


def sft(worker: Worker, workload: Workload, folder: Path, numerics: str, values: str) -> None:
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    policy = load(AutoModelForCausalLM, folder / "policy")
    rows = inputs.documents(workload)
    facts = {"models": inputs.checksum(policy)}
    counts = {"samples": len(rows), "tokens": sum(len(row["input_ids"]) for row in rows)}
    trainer = SFTTrainer(
        model=policy, args=arguments(worker, SFTConfig, folder, numerics, TRAINER_BATCH), processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows), callbacks=[Ends(worker, TRAINER_STEPS, counts)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    worker.ready(**facts)
    trainer.train()


def reward(worker: Worker, workload: Workload, folder: Path, numerics: str, values: str) -> None:
    from trl import RewardConfig, RewardTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder / "scorer")
    model = load(AutoModelForSequenceClassification, folder / "scorer", num_labels=1)
    rankings = inputs.rankings(workload)
    facts = {"models": inputs.checksum(model)}
    counts = {"samples": len(rankings), "tokens": sum(len(ids) for row in rankings for ids in row["sequences"])}
    batch_size = TRAINER_BATCH // 2 * K * (K - 1) // 2  # the pairs of as many prompts as we take
    trainer = RewardTrainer(
        model=model, args=arguments(worker, RewardConfig, folder, numerics, batch_size), processing_class=tokenizer,
        train_dataset=Dataset.from_list(inputs.pairs(rankings)), callbacks=[Ends(worker, TRAINER_STEPS, counts)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    worker.ready(**facts)
    trainer.train()


if __name__ == "__main__":
    set_seed(0)
    run({"ppo": ppo, "rloo": rloo, "decode": decode, "pretrain": sft, "sft": sft, "reward": reward})
