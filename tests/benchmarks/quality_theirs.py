"""TRL 1.12's side of the time to a given quality: its PPOTrainer or its RLOOTrainer, on the same models and prompts.

It uses nothing of `rlhf`.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from tests.benchmarks.quality import RESPONSE, Clock

# the same in both trainers; Adam's options are those of our recipe
COMMON = {
    "adam_beta2": 0.95, "adam_epsilon": 1e-5, "max_grad_norm": 1.0, "temperature": 1.0, "gradient_checkpointing": False,
    "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "gradient_accumulation_steps": 1,
}  # fmt: skip
BATCH = 128  # responses of a step


class StepEnd(TrainerCallback):
    """Tells the clock the end of each step, which is `updates` steps of the trainer."""

    def __init__(self, clock: Clock, updates: int):
        self.clock, self.updates = clock, updates

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.updates == 0:
            self.clock.step(state.global_step // self.updates)


def load_scorer(folder: Path):
    """The reward model, with the normalisation of its scores moved from its configuration into its last layer."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32).eval()
    mean, std = getattr(model.config, "score_mean", 0.0), getattr(model.config, "score_std", 1.0)
    head = torch.nn.Linear(model.score.in_features, 1)
    with torch.no_grad():
        head.weight.copy_(model.score.weight / std)
        head.bias.fill_(-mean / std)
    model.score = head
    return model


def ppo(run: Path, folder: Path, prompts: list[str], tokenizer, settings: dict) -> None:
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, reference = (AutoModelForCausalLM.from_pretrained(run / "sft", dtype=torch.float32) for _ in range(2))
    rows = [{"input_ids": tokenizer(prompt)["input_ids"]} for prompt in prompts]
    config = PPOConfig(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=BATCH, local_rollout_forward_batch_size=BATCH,
        response_length=RESPONSE, stop_token="eos", missing_eos_penalty=1.0, gamma=1.0, lam=0.95, cliprange=0.2,
        cliprange_value=0.2, vf_coef=0.5, num_sample_generations=0, bf16=False, **COMMON, **settings,
    )  # fmt: skip
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer, model=policy, ref_model=reference,
        reward_model=load_scorer(run / "reward"), value_model=load_scorer(run / "reward"),
        train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(rows[:1]),
    )  # fmt: skip
    train(trainer, StepEnd(Clock(folder, policy), updates=1))


def rloo(run: Path, folder: Path, prompts: list[str], tokenizer, settings: dict) -> None:
    from trl import RLOOConfig, RLOOTrainer

    policy = AutoModelForCausalLM.from_pretrained(run / "sft", dtype=torch.float32)
    score = score_function(tokenizer, load_scorer(run / "reward"))
    updates = settings["num_mini_batches"] * settings["num_ppo_epochs"]
    config = RLOOConfig(
        output_dir=str(folder / "trainer"), max_steps=settings["total_episodes"] // BATCH * updates,
        per_device_train_batch_size=BATCH // settings["num_mini_batches"], num_iterations=settings["num_ppo_epochs"],
        steps_per_generation=settings["num_mini_batches"], num_generations=settings["num_generations"],
        learning_rate=settings["learning_rate"], beta=settings["kl_coef"], seed=settings["seed"],
        bf16=settings.get("bf16", False), max_completion_length=RESPONSE, top_k=0, top_p=1.0, epsilon=0.2,
        normalize_advantages=True, disable_dropout=True, use_cpu=True, **COMMON,
    )  # fmt: skip
    trainer = RLOOTrainer(
        model=policy, reward_funcs=score, args=config, processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )  # fmt: skip
    train(trainer, StepEnd(Clock(folder, policy), updates))


def score_function(tokenizer, reward_model) -> Callable[..., list[float]]:
    """A reward function: the reward model's score of each response, less 1 if it does not end with eos."""

    def score(prompts, completion_ids, **kwargs):
        rows = [tokenizer(prompt)["input_ids"] + ids for prompt, ids in zip(prompts, completion_ids, strict=True)]
        with torch.no_grad():
            batch = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
            scores = reward_model(**batch).logits[:, 0].tolist()
        pairs = zip(scores, completion_ids, strict=True)
        return [score - (ids[-1] != tokenizer.eos_token_id) for score, ids in pairs]

    return score


def train(trainer, step_end: StepEnd) -> None:
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(step_end)
    trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path)
    parser.add_argument("--worker", nargs=2)
    arguments = parser.parse_args()
    folder, settings = Path(arguments.worker[0]), json.loads(arguments.worker[1])
    torch.manual_seed(settings["seed"])
    tokenizer = AutoTokenizer.from_pretrained(arguments.run / "sft", padding_side="left")
    lines = (arguments.run / "data/prompts.jsonl").read_text().splitlines()
    prompts = [json.loads(line)["prompt"] for line in lines]
    (rloo if "num_generations" in settings else ppo)(arguments.run, folder, prompts, tokenizer, settings)


if __name__ == "__main__":
    main()
