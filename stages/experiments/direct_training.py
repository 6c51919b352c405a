"""DPO as TRL has it, in the place of PPO: `stages.experiments.direct` makes it as a variant of the stage ppo.

The options of PPO that it reads: `kl_coef` is DPO's beta; `total_episodes` the number of pairs that are drawn, used
again if there are fewer; `batch_size` the pairs of a step of the log; `num_mini_batches` the updates of a step;
`learning_rate`, `adam_beta2`, and those of the evaluation.

The result has the files of PPO's result that an experiment reads: log.jsonl, held_out.jsonl and the policy. Held-out
prompts are answered before the first step and after the last. There are no checkpoints: after an interruption it starts
anew.
"""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerCallback, set_seed, trainer_callback
from trl import DPOConfig, DPOTrainer

from rlhf import InputError
from rlhf.models import device
from rlhf.rows import Row, read_rows, write_rows
from rlhf.tokens import load_tokenizer
from rlhf.trainer import PPOTrainer
from stages.common.console import ProgressBar, say
from stages.common.options import PPOOptions
from stages.common.ppo_log import LOG, evaluate
from stages.common.ppo_models import load_models
from stages.common.stage import Stage, main
from stages.common.training import temporary_tables
from stages.ppo import gold_function, make_accelerator, make_held_out, make_reward, reward_model_source


def work(options: PPOOptions, stage: Stage) -> dict[str, Any]:
    """Writes the policy, log.jsonl and held_out.jsonl; returns the number of pairs for the record."""
    source = stage.model(options.model, "sft")
    tokenizer = load_tokenizer(source)
    pairs = preference_pairs(read_rows(stage.rows(None, "train.jsonl", "comparisons"), "comparisons"))
    drawn = random.Random(options.seed).sample(pairs, min(options.total_episodes, len(pairs)))
    schedule = f"{options.steps} steps of {options.batch_size}, beta {options.kl_coef:g}"
    say(f"{len(drawn):,} of {len(pairs):,} pairs, {schedule}")
    arguments = dpo_arguments(options, stage.partial)
    measuring = measuring_trainer(options, stage, source, tokenizer)
    held_out = make_held_out(options, stage, measuring, tokenizer)
    stage.check_saving(measuring.saved_policy.save_pretrained, tokenizer.save_pretrained)
    trainer = dpo_trainer(source, arguments, drawn, tokenizer, stage.partial)
    bar = ProgressBar(options.steps)
    log = StepLog(options, bar)
    log.rows.append({"step": 0, **evaluate(held_out, 0, bar)})
    trainer.remove_callback(trainer_callback.PrinterCallback)
    trainer.add_callback(log)
    trainer.train()
    bar.close()
    measuring.saved_policy.load_state_dict(cast(nn.Module, trainer.model).state_dict())
    log.rows[-1] |= evaluate(held_out, options.steps, bar)
    write_rows(stage.partial / LOG, log.rows)
    held_out.save_records(stage.partial)
    measuring.saved_policy.save_pretrained(stage.partial)
    tokenizer.save_pretrained(stage.partial)
    return {"rows": {"pairs": len(pairs), "drawn": len(drawn)}, "metrics": log.rows[-1]}


def preference_pairs(rows: Sequence[Row]) -> list[Row]:
    """All pairs of a ranking's completions with different ranks, as TRL's `prompt`, `chosen` and `rejected`.

    The reward model learns from the same pairs. A truncated completion is left out, because TRL ends each one with eos.
    Raises InputError if there is no pair.
    """
    pairs = []
    for row in rows:
        ended = row.get("ended") or [True] * len(row["ranks"])
        ranked = [(rank, c) for rank, c, end in zip(row["ranks"], row["completions"], ended, strict=True) if end]
        pairs += [
            {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected}
            for better, chosen in ranked
            for worse, rejected in ranked
            if better < worse
        ]
    if not pairs:
        raise InputError(
            "DPO has no pairs: no ranking has two completions that ended and have different ranks: raise "
            "response_length under comparisons"
        )
    return pairs


def dpo_arguments(options: PPOOptions, folder: Path) -> DPOConfig:
    """TRL's arguments: its defaults but for the options, the machine, and what PPO has as well."""
    return DPOConfig(
        output_dir=str(folder),
        beta=options.kl_coef,
        learning_rate=options.learning_rate,
        adam_beta2=options.adam_beta2,
        max_steps=options.steps * options.num_mini_batches,
        per_device_train_batch_size=options.batch_size // options.num_mini_batches,
        logging_steps=options.num_mini_batches,
        seed=options.seed,
        use_cpu=device().type == "cpu",
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )


def dpo_trainer(
    source: str, arguments: DPOConfig, pairs: list[Row], tokenizer: PreTrainedTokenizerBase, folder: Path
) -> DPOTrainer:
    """TRL's trainer on the pairs, with the model at `source` as policy and as reference."""
    set_seed(arguments.seed)
    with temporary_tables(folder):
        return DPOTrainer(source, args=arguments, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)


def measuring_trainer(options: PPOOptions, stage: Stage, source: str, tokenizer: PreTrainedTokenizerBase) -> PPOTrainer:
    """A PPOTrainer that trains nothing: its policy is evaluated on held-out prompts as that of PPO is."""
    accelerator = make_accelerator(options, stage)
    reward_source = reward_model_source(options, stage)
    models = load_models(options, accelerator, tokenizer, source, reward_source)
    return PPOTrainer(
        options,
        policy=models.policy,
        reference=models.reference,
        value_model=models.value_model,
        reward=make_reward(options, accelerator, tokenizer, reward_source, True, [], models.scorer),
        tokenizer=tokenizer,
        prompts=[],
        gold=gold_function(options.gold, stage, accelerator, tokenizer, []) if options.gold else None,
        accelerator=accelerator,
    )


class StepLog(TrainerCallback):
    """The rows of log.jsonl: what TRL logs of each step, and the pairs per second, under PPO's name for it."""

    def __init__(self, options: PPOOptions, bar: ProgressBar):
        self.options, self.bar = options, bar
        self.rows: list[dict[str, Any]] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = time.time()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in (logs or {}):
            return  # the summary at the end
        now, step = time.time(), state.global_step // self.options.num_mini_batches
        rate = self.options.batch_size / (now - self.began)
        self.rows.append({"step": step, **logs, "episodes_per_second": rate})
        self.bar.update(1, loss=logs["loss"])
        self.began = time.time()


if __name__ == "__main__":
    main("ppo", work, "experiments.direct_training")
