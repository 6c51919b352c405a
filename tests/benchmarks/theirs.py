"""The other side of the benchmark: TRL's trainers and transformers' `generate`, unmodified.

PPO and RLOO run in an environment with TRL 1.12.0, the last release that has PPO; the rest runs in ours. Defaults that
cost time where we have none (gradient checkpointing) are switched off, so that both sides do the same work.
"""

from collections.abc import Callable
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

MAX_STEPS = 1000  # steps that a trainer is set up for; the benchmark ends the process earlier


class StepEnd(TrainerCallback):
    """Ends a step of the benchmark after every `steps` steps of the trainer."""

    def __init__(self, worker: Worker, steps: int, counts: dict):
        self.worker, self.steps, self.counts = worker, steps, counts

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.steps == 0:
            self.worker.end("update", **self.counts)


def load(auto_class, folder: Path, dtype=torch.float32, **kwargs):
    return auto_class.from_pretrained(folder, dtype=dtype, **kwargs)


# --- PPO --------------------------------------------------------------------------------------------------------------


def ppo(worker: Worker, workload: Workload, folder: Path, numerics: str, values: str) -> None:
    from trl.experimental.ppo import PPOTrainer, ppo_trainer

    prompts = inputs.prompts(workload)
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    policy = load(AutoModelForCausalLM, folder / "policy")
    reference, adapter = None, None
    if workload.lora_r:  # the reference is the policy without its adapter
        adapter = inputs.lora_config(workload.lora_r, "CAUSAL_LM")
    else:
        reference = load(AutoModelForCausalLM, folder / "policy")
    value_model, reward_model = make_scorers(workload, folder)
    config = ppo_config(workload, folder)
    facts = {
        "models": inputs.checksum(policy, *([] if workload.lora_r else [reward_model])),
        **numbers_to_compare(ppo_trainer, policy, reward_model, prompts),
    }
    counts = {"samples": SIZES[workload.size].batch}
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward_model,
        value_model=value_model, peft_config=adapter, train_dataset=Dataset.from_dict({"input_ids": prompts}),
        # the trainer makes a loader of this even if it evaluates nothing
        eval_dataset=Dataset.from_dict({"input_ids": prompts[:1]}), callbacks=[StepEnd(worker, 1, counts)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    watch_ppo(worker, ppo_trainer, trainer, workload, prompts, counts)
    worker.ready(**facts)
    trainer.train()


def make_scorers(workload: Workload, folder: Path) -> tuple:
    """The value model and the reward model, with the same weights; the adapter of a reward model is merged."""
    if not workload.lora_r:
        return tuple(load(AutoModelForSequenceClassification, folder / "scorer", num_labels=1) for _ in range(2))
    from peft import AutoPeftModelForSequenceClassification as AutoPeftModel

    value_model, reward_model = (
        load(AutoPeftModel, folder / "scorer", num_labels=1, is_trainable=True) for _ in range(2)
    )
    return value_model, reward_model.merge_and_unload()


def ppo_config(workload: Workload, folder: Path):
    from trl.experimental.ppo import PPOConfig

    batch = SIZES[workload.size].batch
    return PPOConfig(
        output_dir=str(folder / "trainer"), total_episodes=MAX_STEPS * batch, num_ppo_epochs=workload.epochs,
        per_device_train_batch_size=batch, gradient_accumulation_steps=1, num_mini_batches=4,
        local_rollout_forward_batch_size=batch, learning_rate=3e-6, response_length=workload.response,
        temperature=1.0, stop_token="eos", missing_eos_penalty=1.0, kl_coef=0.05, gamma=1.0, lam=0.95, cliprange=0.2,
        cliprange_value=0.2, vf_coef=0.1, num_sample_generations=0, gradient_checkpointing=False, bf16=False,
        report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip


def watch_ppo(worker: Worker, ppo_trainer, trainer, workload: Workload, prompts: list[list[int]], counts: dict) -> None:
    """Marks the phases of PPOTrainer's steps, and counts tokens and prompts; `ppo_trainer` is the module."""

    def after_generation(result) -> None:
        worker.mark("generate")
        responses = result[0][:, -workload.response :]
        is_eos = (responses == inputs.EOS).int()
        response_tokens = int((is_eos.cumsum(dim=1) - is_eos == 0).sum())  # up to the first eos, included
        counts.update(tokens=response_tokens + sum(map(len, prompts)), response_tokens=response_tokens)

    worker.watch(
        ppo_trainer, "batch_generation",
        before=lambda model, queries, *args: counts.update(prompts=inputs.prompts_checksum(queries, inputs.PAD)),
        after=after_generation,
    )  # fmt: skip
    # the update starts with the first forward pass of policy and value model together
    worker.watch(
        ppo_trainer, "forward",
        before=lambda model, *args: model is not trainer.model or "score" in worker.phases or worker.mark("score"),
    )  # fmt: skip


def numbers_to_compare(ppo_trainer, policy, reward_model, prompts: list[list[int]]) -> dict[str, list[float]]:
    """Log-probabilities of the last 8 tokens of four prompts, and their scores, which must be equal on both sides."""
    width = max(map(len, prompts[:4]))
    rows = torch.tensor([[inputs.PAD] * (width - len(ids)) + ids for ids in prompts[:4]])
    with torch.no_grad():
        logits = ppo_trainer.forward(policy, rows, inputs.PAD).logits[:, -9:-1]
        _, scores, _ = ppo_trainer.get_reward(reward_model, rows, inputs.PAD, width - 8)
    logprobs = ppo_trainer.selective_log_softmax(logits, rows[:, -8:]).sum(dim=1)
    return {"logprobs": logprobs.tolist(), "scores": scores.tolist()}


# --- RLOO -------------------------------------------------------------------------------------------------------------


def rloo(worker: Worker, workload: Workload, folder: Path, numerics: str, values: str) -> None:
    from trl import RLOOTrainer
    from trl.experimental.ppo import ppo_trainer

    prompts = inputs.prompts(workload)[:: workload.completions]
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    policy = load(AutoModelForCausalLM, folder / "policy")
    reward_model = load(AutoModelForSequenceClassification, folder / "scorer", num_labels=1).eval().to(worker.device)
    config = rloo_config(worker, workload, folder, numerics)
    facts = {
        "models": inputs.checksum(policy, reward_model),
        **numbers_to_compare(ppo_trainer, policy, reward_model.cpu(), inputs.prompts(workload)),
    }
    reward_model.to(worker.device)
    counts = {"samples": SIZES[workload.size].batch}
    trainer = RLOOTrainer(
        model=policy, reward_funcs=score_function(worker, tokenizer, reward_model), args=config,
        processing_class=tokenizer, train_dataset=Dataset.from_dict({"prompt": tokenizer.batch_decode(prompts)}),
        callbacks=[StepEnd(worker, 4, counts)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)

    def after_generation(result) -> None:
        worker.mark("generate")
        prompt_ids, completion_ids = result[:2]
        response_tokens = sum(map(len, completion_ids))
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in prompt_ids], True, inputs.PAD)
        counts.update(
            tokens=response_tokens + sum(map(len, prompt_ids)), response_tokens=response_tokens,
            prompts=inputs.prompts_checksum(padded, inputs.PAD),
        )  # fmt: skip

    worker.watch(trainer, "_generate", after=after_generation)
    worker.watch(trainer, "_generate_and_score_completions", after=lambda result: worker.mark("score"))
    worker.ready(**facts)
    trainer.train()


def score_function(worker: Worker, tokenizer, reward_model) -> Callable[..., list[float]]:
    """A reward function: the reward model's score of each response, less 1 if it does not end with eos."""

    def score(prompts, completion_ids, **kwargs):
        rows = [tokenizer(prompt)["input_ids"] + ids for prompt, ids in zip(prompts, completion_ids, strict=True)]
        batch = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt").to(worker.device)
        with torch.no_grad():
            scores = reward_model(**batch).logits[:, 0].float().tolist()
        return [score - (ids[-1] != inputs.EOS) for score, ids in zip(scores, completion_ids, strict=True)]

    return score


def rloo_config(worker: Worker, workload: Workload, folder: Path, numerics: str):
    from trl import RLOOConfig

    return RLOOConfig(
        output_dir=str(folder / "trainer"), max_steps=4 * MAX_STEPS,
        per_device_train_batch_size=SIZES[workload.size].batch // 4,
        gradient_accumulation_steps=1, steps_per_generation=4, num_iterations=workload.epochs,
        num_generations=workload.completions, learning_rate=3e-6, beta=0.05, max_completion_length=workload.response,
        temperature=1.0, top_k=0, top_p=1.0, normalize_advantages=True, epsilon=0.2, disable_dropout=True,
        gradient_checkpointing=False, bf16=numerics == "bf16", report_to="none", save_strategy="no", disable_tqdm=True,
        use_cpu=not worker.cuda,
    )  # fmt: skip


def function(worker: Worker, workload: Workload, folder: Path, numerics: str, values: str) -> None:
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    trainer_class, config_class = (
        (RLOOTrainer, RLOOConfig) if workload.kind == "function-rloo" else (GRPOTrainer, GRPOConfig)
    )
    further = {"normalize_advantages": True} if trainer_class is RLOOTrainer else {"loss_type": "dapo"}
    prompts = inputs.prompts(workload)[:: workload.completions]
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    policy = load(AutoModelForCausalLM, folder / "policy")
    facts = {"models": inputs.checksum(policy)}
    config = config_class(
        output_dir=str(folder / "trainer"), max_steps=4 * MAX_STEPS,
        per_device_train_batch_size=SIZES[workload.size].batch // 4, gradient_accumulation_steps=1,
        steps_per_generation=4, num_iterations=workload.epochs, num_generations=workload.completions,
        learning_rate=3e-6, beta=0.05, max_completion_length=workload.response, temperature=1.0, top_k=0, top_p=1.0,
        epsilon=0.2, disable_dropout=True, gradient_checkpointing=False, bf16=numerics == "bf16", report_to="none",
        save_strategy="no", disable_tqdm=True, use_cpu=not worker.cuda, **further,
    )  # fmt: skip
    counts = {"samples": SIZES[workload.size].batch}
    trainer = trainer_class(
        model=policy, reward_funcs=inputs.distinct_words, args=config, processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": tokenizer.batch_decode(prompts)}),
        callbacks=[StepEnd(worker, 4, counts)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)

    def after_generation(result) -> None:
        worker.mark("generate")
        response_tokens = sum(map(len, result[1]))
        counts.update(tokens=response_tokens + sum(map(len, result[0])), response_tokens=response_tokens)

    worker.watch(trainer, "_generate", after=after_generation)
    worker.watch(trainer, "_generate_and_score_completions", after=lambda result: worker.mark("score"))
    worker.ready(**facts)
    trainer.train()


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode(worker: Worker, workload: Workload, folder: Path, numerics: str, values: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    dtype = torch.bfloat16 if numerics == "bf16" else torch.float32
    policy = load(AutoModelForCausalLM, folder / "policy")
    facts = {"models": inputs.checksum(policy)}
    policy = policy.to(worker.device, dtype).eval()
    batch = tokenizer.pad({"input_ids": inputs.prompts(workload)}, return_tensors="pt").to(worker.device)
    prompts = inputs.prompts_checksum(batch["input_ids"], inputs.PAD)
    worker.ready(**facts)
    while True:
        rows = policy.generate(
            **batch, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=workload.response,
            eos_token_id=inputs.EOS, pad_token_id=inputs.PAD,
        )  # fmt: skip
        response_tokens = int((rows[:, batch["input_ids"].shape[1] :] != inputs.PAD).sum())
        tokens = {"tokens": response_tokens + int(batch["attention_mask"].sum()), "response_tokens": response_tokens}
        worker.end("generate", samples=len(rows), prompts=prompts, **tokens)


# --- pretraining, SFT and the reward model ----------------------------------------------------------------------------


def arguments(worker: Worker, config_class, folder: Path, numerics: str, batch_size: int):
    return config_class(
        output_dir=str(folder / "trainer"), num_train_epochs=MAX_STEPS, per_device_train_batch_size=batch_size,
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
        train_dataset=Dataset.from_list(rows), callbacks=[StepEnd(worker, TRAINER_STEPS, counts)],
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
    batch_size = TRAINER_BATCH // 2 * K * (K - 1) // 2  # all pairs of as many prompts as in our batch
    trainer = RewardTrainer(
        model=model, args=arguments(worker, RewardConfig, folder, numerics, batch_size), processing_class=tokenizer,
        train_dataset=Dataset.from_list(inputs.pairs(rankings)), callbacks=[StepEnd(worker, TRAINER_STEPS, counts)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    worker.ready(**facts)
    trainer.train()


if __name__ == "__main__":
    set_seed(0)
    run(
        {
            "ppo": ppo,
            "rloo": rloo,
            "function-rloo": function,
            "function-grpo": function,
            "decode": decode,
            "pretrain": sft,
            "sft": sft,
            "reward": reward,
        }
    )
