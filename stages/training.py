"""What pretraining, SFT and the reward model share: options of TRL's trainers, and how those are run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from datasets import Dataset
from transformers import Trainer, TrainingArguments, trainer_callback
from trl import SFTTrainer

from rlhf.config import option
from rlhf.data import batch_order
from rlhf.errors import InputError
from stages.options import StageOptions
from stages.progress import TrainerProgress

T = TypeVar("T", bound=TrainingArguments)


@dataclass
class TrainingOptions(StageOptions):
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
    """The options as arguments of a TRL trainer. Raises InputError if `trainer` holds something it does not know."""
    try:
        return config_class(
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
            logging_steps=20,
            save_strategy="no",
            disable_tqdm=True,
            **{"gradient_checkpointing": False, **(options.trainer or {})},
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"TRL's {config_class.__name__} refuses these options: {error}") from error


class PlainSFTTrainer(SFTTrainer):
    """TRL's trainer without the entropy and accuracy that it computes at every step: a fifth of a small model's time."""

    def compute_loss(self, *args, **kwargs):
        return Trainer.compute_loss(self, *args, **kwargs)


def in_batches(dataset: Dataset, options: TrainingOptions) -> Dataset:
    """The rows of all epochs, in the order in which they are trained on."""
    return dataset.select(batch_order(dataset["length"], options.batch_size, options.epochs, options.seed))


def train(trainer: Trainer) -> list[dict[str, float]]:
    """Trains with our progress bar, and returns what was logged."""
    trainer.remove_callback(trainer_callback.PrinterCallback)
    trainer.add_callback(TrainerProgress())
    trainer.train()
    return trainer.state.log_history
