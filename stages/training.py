"""What pretraining, SFT and the reward model share: options of TRL's trainers, and how those are run."""

import math
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

from datasets import Dataset
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments, trainer_callback

from rlhf.config import option
from rlhf.data import batch_order
from rlhf.errors import InputError
from rlhf.models import device
from rlhf.reward import RankingRewardTrainer
from rlhf.sft import LeanSFTTrainer
from stages.cli import Stage
from stages.options import SavingOptions
from stages.progress import TrainerProgress
from stages.saving import Saver

# arguments of transformers' trainers that read or write elsewhere
OUTSIDE = {"logging_dir", "push_to_hub", "resume_from_checkpoint", "deepspeed", "fsdp_config", "accelerator_config"}

T = TypeVar("T", bound=TrainingArguments)


@dataclass
class TrainingOptions(SavingOptions):
    """Options of a supervised stage; `trainer` passes on whatever else TRL's trainer can be told."""

    epochs: float = option(1.0, "times the rows are gone through")
    batch_size: int = option(16, "rows a step and process; for the reward model, prompts with all their completions")
    learning_rate: float = option(1e-3, "peak learning rate of AdamW")
    lr_scheduler_type: str = option(
        "cosine", "how it decays: cosine, linear, constant, or another that transformers knows"
    )
    warmup_steps: int = option(50, "steps over which it rises from 0")
    weight_decay: float = option(0.01, "decoupled weight decay")
    adam_beta2: float = option(0.95, "AdamW's beta 2 (InstructGPT: 0.95); beta 1 is 0.9")
    max_length: int | None = option(
        None, "longest row in tokens; the model's context if not given. What is longer is dropped and counted"
    )
    bf16: bool = option(False, "forward passes in bfloat16, weights and optimizer in fp32")
    log_with: str | None = option(None, "also log to tensorboard, wandb, or another tracker that transformers knows")
    trainer: dict | None = option(
        None, "further arguments of TRL's trainer, as JSON: '{\"gradient_accumulation_steps\": 4}'"
    )

    def longest(self, context: int) -> int:
        """The longest row in tokens that is used: max_length, and never more than the model's context."""
        return min(self.max_length or context, context)


def trainer_arguments(config_class: type[T], options: TrainingOptions, folder: Path) -> T:
    """The options as arguments of a TRL trainer. Raises InputError if `trainer` holds something it must not."""
    if outside := OUTSIDE & (options.trainer or {}).keys():
        raise InputError(f"trainer: {', '.join(sorted(outside))} would lead out of the run's folder")
    try:
        arguments = config_class(
            output_dir=str(folder),
            num_train_epochs=1,  # of the rows as `in_batches` lays them out
            train_sampling_strategy="sequential",
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            lr_scheduler_type=options.lr_scheduler_type,
            warmup_steps=options.warmup_steps,
            weight_decay=options.weight_decay,
            adam_beta2=options.adam_beta2,
            max_length=None,  # rlhf.data has dropped what is too long
            bf16=options.bf16,
            seed=options.seed,
            report_to=options.log_with or "none",
            logging_steps=1,  # what is logged must not depend on where a run was interrupted
            logging_nan_inf_filter=False,
            save_strategy="no",  # Saver decides
            disable_tqdm=True,
            # told that it is on a CPU, transformers allows bf16 there
            **{
                "gradient_checkpointing": False,
                "use_cpu": device().type == "cpu",
                **(options.trainer or {}),
            },
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"TRL's {config_class.__name__} refuses these options: {error}") from error
    # of several GPUs a process uses one: more are used by as many processes, not by DataParallel's copies of the model
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class Resumable(Trainer):
    """Mixed into a Trainer, makes its checkpoints whole or absent, and stops it where its numbers go wrong."""

    stage: Stage
    saver: Saver
    batch: Tensor  # the ids of the last one

    def _save_checkpoint(self, model, trial) -> None:
        def write(folder: Path) -> None:
            output, self.args.output_dir = self.args.output_dir, str(folder)
            Trainer._save_checkpoint(self, model, trial)
            self.args.output_dir = output
            for path in (folder / f"checkpoint-{self.state.global_step}").iterdir():
                path.rename(folder / path.name)
            path.parent.rmdir()
            # the arguments are known, and they are the one file that would have to be unpickled
            (folder / "training_args.bin").unlink()

        self.check_weights()
        self.saver.save(self.state.global_step, write)

    def check_weights(self) -> None:
        """Raises InputError if a weight is not finite, so that what is saved is good."""
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            raise InputError(
                f"stopped after step {self.state.global_step}: some weights are not finite. "
                "Usual cause: learning_rate too high, or too few warmup_steps"
            )

    def training_step(self, model, inputs, *args, **kwargs) -> Tensor:
        self.batch = inputs["input_ids"]
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.check_finite("loss", float(loss))
        return loss

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """After each step, and before a checkpoint is written."""
        self.check_finite("norm of the gradient", logs.get("grad_norm", 0.0))
        super().log(logs, *args, **kwargs)

    def check_finite(self, what: str, number: float) -> None:
        """Raises InputError if the number is not finite; the batch that it comes from is kept."""
        if math.isfinite(number):
            return
        step = self.state.global_step + (what == "loss")  # which is counted when its gradient has been used
        texts = self.processing_class.batch_decode(self.batch, skip_special_tokens=True)
        rows = [{"text": text, "input_ids": ids} for text, ids in zip(texts, self.batch.tolist(), strict=True)]
        raise InputError(
            f"stopped in step {step}: the {what} is {number}; its batch is in {self.stage.keep_batch(step, rows)}. "
            "Usual cause: learning_rate too high, or too few warmup_steps"
        )


class SavingSFTTrainer(Resumable, LeanSFTTrainer):
    """The trainer of text and demonstrations, resumable."""


class SavingRewardTrainer(Resumable, RankingRewardTrainer):
    """The trainer of rankings, resumable."""


class SaveInTime(TrainerCallback):
    """Has the trainer save when it is time, and stop when a signal asks for it."""

    def __init__(self, saver: Saver):
        self.saver = saver

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = self.saver.asked_to_stop or self.saver.due(state.global_step)

    def on_save(self, args, state, control, **kwargs):
        # not before: a checkpoint is the same whether or not its run was interrupted
        control.should_training_stop |= self.saver.asked_to_stop


def in_batches(dataset: Dataset, options: TrainingOptions) -> Dataset:
    """The rows of all epochs, in the order in which they are trained on."""
    return dataset.select(batch_order(dataset["length"][:], options.batch_size, options.epochs, options.seed))


def train(trainer: Resumable, stage: Stage, options: TrainingOptions) -> list[dict[str, float]]:
    """Trains with our progress bar, from the last checkpoint if there is one; returns what was logged, 20 steps a row."""
    trainer.stage, trainer.saver = stage, Saver(stage, options)
    trainer.remove_callback(trainer_callback.PrinterCallback)
    trainer.add_callback(TrainerProgress())
    trainer.add_callback(SaveInTime(trainer.saver))
    with trainer.saver as saver:
        checkpoint = saver.latest()
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except UnpicklingError as error:
            raise InputError(
                f"the checkpoint {checkpoint} holds more than data: it would run code; remove it"
            ) from error
    trainer.check_weights()
    if saver.asked_to_stop:
        saver.stop(trainer.state.global_step)
    return history([step for step in trainer.state.log_history if "loss" in step])


def history(steps: list[dict[str, float]], together: int = 20) -> list[dict[str, float]]:
    """What was logged, as means over 20 steps, under the number of the last of them."""
    rows = []
    for start in range(0, len(steps), together):
        some = steps[start : start + together]
        means = {
            name: sum(step[name] for step in some) / len(some) for name in some[0] if name not in ("step", "epoch")
        }
        rows.append({"step": some[-1]["step"], **means})
    return rows
