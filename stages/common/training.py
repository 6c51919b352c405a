"""TRL's trainers for pretraining, SFT and the reward model, with checkpoints, a progress bar and divergence checks."""

import math
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import pyarrow as pa
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset, disable_caching, enable_caching, is_caching_enabled
from datasets.table import InMemoryTable
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, trainer_callback
from transformers.training_args import TrainingArguments
from trl import RewardConfig, SFTConfig

from rlhf import InputError, first_line
from rlhf.adapters.lora import adapter_weights, has_adapter, save_model, set_weights
from rlhf.engine import all_finite, process_count, sharding_plugin, start_sharding, total
from rlhf.models import device
from rlhf.reward import RankingRewardTrainer
from rlhf.run.placement import distributed
from rlhf.sft import PackedSFTTrainer
from rlhf.tokens import batch_order
from stages.common.console import ProgressBar
from stages.common.needs import say_training_needs
from stages.common.options import TrainingOptions
from stages.common.processes import lost_another
from stages.common.resume import Saver
from stages.common.stage import Stage
from stages.common.whole_checkpoints import WholeCheckpoints

# transformers' new and old name of the same argument; the new one is used if it exists
CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")

Config = TypeVar("Config", SFTConfig, RewardConfig, TrainingArguments)


def trainer_arguments(config_class: type[Config], options: TrainingOptions, folder: Path) -> Config:
    """The options as arguments of a TRL trainer. Raises InputError if TRL refuses them."""
    precision, sharded = options.mixed_precision, sharding_plugin() is not None
    try:
        arguments = config_class(
            output_dir=str(folder),
            num_train_epochs=1,  # `in_batches` repeats the rows
            train_sampling_strategy="sequential",
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            lr_scheduler_type=options.lr_scheduler_type,
            warmup_steps=options.warmup_steps,
            weight_decay=options.weight_decay,
            adam_beta2=options.adam_beta2,
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            seed=options.seed,
            report_to=options.log_with or "none",
            logging_steps=1,  # otherwise the log would depend on where a run was interrupted
            logging_nan_inf_filter=False,
            save_strategy="no",  # SaveInTime decides
            disable_tqdm=True,
            average_tokens_across_devices=process_count() == 1,  # every process counts the tokens of the whole batch
            ddp_find_unused_parameters=False,
            **_further_arguments(config_class, options),
        )
    except (TypeError, ValueError, ImportError) as error:
        raise InputError(f"TRL's {config_class.__name__} refuses these options: {error}") from error
    if sharded:
        start_sharding(device().type == "cpu", precision)  # the arguments have reset Accelerate's state
    if isinstance(arguments, SFTConfig) and arguments.max_length is None and not arguments.packing:
        # the rows are token ids already, and TRL would copy them all to add labels
        arguments.dataset_kwargs = {"skip_prepare_dataset": True, **cast(dict, arguments.dataset_kwargs or {})}
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one GPU per process: DataParallel is disabled
    return arguments


def _further_arguments(config_class: type[Config], options: TrainingOptions) -> dict[str, Any]:
    """The arguments in `trainer`, and defaults for what it may set."""
    further = options.trainer or {}
    names = {field.name for field in fields(config_class)}
    checkpointing = next(name for name in CHECKPOINTING if name in names)
    return {
        **({"max_length": None} if "max_length" in names else {}),  # rlhf.tokens has dropped rows that are too long
        "use_cpu": device().type == "cpu",  # without it transformers refuses bf16 on a CPU
        **({} if set(CHECKPOINTING) & further.keys() else {checkpointing: False}),  # TRL's default is True
        # Accelerate does not notice that a fused optimizer skips a step, and the schedule would go on
        **({"optim": "adamw_torch"} if options.mixed_precision == "fp16" else {}),
        **further,
    }


class Resumable(WholeCheckpoints):
    """A mixin for a Trainer: saves checkpoints through `Saver`, and stops when a number is not finite."""

    stage: Stage
    saver: Saver
    model: nn.Module
    processing_class: PreTrainedTokenizerBase
    batch: Tensor  # the token ids of the last batch

    def get_train_dataloader(self) -> DataLoader:
        """The batches. Of several processes, each gets every batch whole, and computes its own rows of it."""
        batches = super().get_train_dataloader()
        if isinstance(sampler := batches.batch_sampler, BatchSamplerShard):
            sampler.num_processes, sampler.process_index = 1, 0
            sampler.even_batches = False  # a last batch of fewer rows stays as it is
        return batches

    def _save_checkpoint(self, model, trial) -> None:
        def write(folder: Path) -> None:
            output, self.args.output_dir = self.args.output_dir, str(folder)
            Trainer._save_checkpoint(self, model, trial)
            self.args.output_dir = output
            for path in (folder / f"checkpoint-{self.state.global_step}").iterdir():
                path.rename(folder / path.name)
            path.parent.rmdir()
            # not needed, and reading it would unpickle arbitrary objects
            (folder / "training_args.bin").unlink(missing_ok=True)

        self.check_weights()
        self.saver.save(self.state.global_step, write)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not has_adapter(self.model):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            save_model(cast(PreTrainedModel, self.model), str(output_dir))
            self.processing_class.save_pretrained(str(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not has_adapter(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            own = cast(PreTrainedModel, self.model)
            set_weights(own, adapter_weights(resume_from_checkpoint), resume_from_checkpoint)

    def check_weights(self) -> None:
        """Raises InputError if a weight is not finite, so that no such model is saved."""
        if not all_finite(self.model):
            raise InputError(
                f"stopped after step {self.state.global_step}: some weights are not finite. "
                "Usual cause: learning_rate too high, or too few warmup_steps"
            )

    def training_step(self, model, inputs, *args, **kwargs) -> Tensor:
        """The loss of one step. Raises InputError if it is not finite."""
        self.batch = inputs["input_ids"]
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.check_finite("loss", float(total(loss.detach())))  # all processes stop in the same step
        return loss

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Checks the gradient norm, then logs. The Trainer calls it after each step, before a checkpoint is written.

        With fp16, `skipped` is 1 for a step that the loss scaler skipped; such a step has no norm.
        """
        scaler = self.accelerator.scaler
        if scaler is not None and "grad_norm" in logs:
            skipped = self.accelerator.optimizer_step_was_skipped
            logs = {**logs, "skipped": float(skipped)}
            if skipped and scaler.get_scale() >= 1:  # else no scale is low enough
                del logs["grad_norm"]
        self.check_finite("norm of the gradient", logs.get("grad_norm", 0.0))
        super().log(logs, *args, **kwargs)

    def check_finite(self, quantity: str, number: float) -> None:
        """Raises InputError if the number is not finite, after writing the batch to a file."""
        if math.isfinite(number):
            return
        step = self.state.global_step + (quantity == "loss")  # global_step does not count this step yet
        texts = self.processing_class.batch_decode(self.batch, skip_special_tokens=True)
        rows = [{"text": text, "input_ids": ids} for text, ids in zip(texts, self.batch.tolist(), strict=True)]
        raise InputError(
            f"stopped in step {step}: the {quantity} is {number}; its batch is in {self.stage.keep_batch(step, rows)}. "
            "Usual cause: learning_rate too high, or too few warmup_steps"
        )


class SavingSFTTrainer(Resumable, PackedSFTTrainer):
    """The resumable trainer of pretraining and SFT."""


class SavingRewardTrainer(Resumable, RankingRewardTrainer):
    """The resumable trainer of the reward model."""


AnyTrainer = TypeVar("AnyTrainer", bound=Resumable)


class TrainerProgress(TrainerCallback):
    """Shows a progress bar with means of loss and accuracy over the last 20 steps."""

    def __init__(self) -> None:
        self.last: dict[str, deque[float]] = {name: deque(maxlen=20) for name in ("loss", "accuracy")}

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = ProgressBar(state.max_steps, done=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name, values in self.last.items():
            if name in (logs or {}):
                values.append(float(logs[name]))

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(1, **{name: sum(values) / len(values) for name, values in self.last.items() if values})

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


class SaveInTime(TrainerCallback):
    """Saves a checkpoint when one is due, and stops after a signal."""

    def __init__(self, saver: Saver):
        self.saver = saver

    def on_step_end(self, args, state, control, **kwargs):
        self.saver.after_step(state.global_step)
        control.should_save = self.saver.save_now

    def on_save(self, args, state, control, **kwargs):
        # not in on_step_end, so that the checkpoint does not depend on whether the run was interrupted
        control.should_training_stop |= self.saver.stopping


def row_limit(options: TrainingOptions, context: int) -> int:
    """The maximum number of tokens of a row: max_length, but at most the model's context."""
    return min(options.max_length or context, context)


def length_remedy(options: TrainingOptions, context: int) -> str:
    """What keeps rows that are longer than `row_limit`."""
    if row_limit(options, context) < context:
        return f"raise max_length; the model's context has {context:,} tokens"
    return f"the model's context is {context:,} tokens; take another model, or raise `context` of pretrain"


def in_batches(dataset: Dataset, options: TrainingOptions) -> Dataset:
    """The rows of all epochs in training order, see `rlhf.tokens.batch_order`. Raises InputError if there are none."""
    order = batch_order(dataset.data.column("length").to_numpy(), options.batch_size, options.epochs, options.seed)
    if len(order) == 0:
        raise InputError(f"epochs is {options.epochs:g}, which is less than one of the {len(dataset)} rows: raise it")
    # select would make a Python object of every index, and hash them all
    indices = InMemoryTable(pa.table({"indices": pa.array(order, pa.uint64())}))
    settings = f"{dataset._fingerprint} {options.batch_size} {options.epochs} {options.seed}"
    fingerprint = sha256(settings.encode()).hexdigest()[:16]
    return Dataset(dataset.data, info=dataset.info, indices_table=indices, fingerprint=fingerprint)


@contextmanager
def naming_arguments(further: dict[str, Any] | None) -> Iterator[None]:
    """A context in which an error becomes an InputError that names `further`, the arguments for TRL that the user set.

    TRL and torch check many of them only when they are used. Without any, errors pass unchanged.
    """
    try:
        yield
    except Exception as error:
        if not further or isinstance(error, InputError | BrokenPipeError) or lost_another(error):
            raise
        names = ", ".join(further)
        raise InputError(
            f"training fails with the arguments in trainer ({names}): {type(error).__name__}: {first_line(error)}"
        ) from error


@contextmanager
def temporary_tables(folder: Path) -> Iterator[None]:
    """A context in which TRL writes its own tables of the rows, such as packed ones, to `folder`, which is then empty.

    They stay readable, because they are mapped into memory. Otherwise they would lie beside the token ids, which may be
    those of a base, and a damaged table there would be used again.
    """
    was_enabled, before = is_caching_enabled(), os.environ.get("TMPDIR")
    disable_caching()
    with TemporaryDirectory(prefix=".tables-", dir=folder) as place:
        os.environ["TMPDIR"] = place  # the only way to name the folder of tables that are not cached
        try:
            yield
        finally:
            del os.environ["TMPDIR"]
            os.environ.update({"TMPDIR": before} if before is not None else {})
            if was_enabled:
                enable_caching()


def new_trainer(
    trainer_class: type[AnyTrainer],
    options: TrainingOptions,
    *,
    model: PreTrainedModel,
    arguments: TrainingArguments,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
) -> AnyTrainer:
    """A trainer for all epochs of the rows, or for `max_steps` optimizer steps if these are fewer."""
    rows = in_batches(dataset, options)
    with naming_arguments(options.trainer), temporary_tables(Path(str(arguments.output_dir))):
        trainer = trainer_class(
            model=distributed(model), args=arguments, train_dataset=rows, processing_class=tokenizer
        )
        if options.max_steps is not None:
            # TRL would start the rows again if there are too few for max_steps
            steps = -(-len(trainer.get_train_dataloader()) // arguments.gradient_accumulation_steps)
            arguments.max_steps = min(options.max_steps, steps)
    return trainer


def train(trainer: Resumable, stage: Stage, options: TrainingOptions) -> list[dict[str, float]]:
    """Trains, from the newest checkpoint if there is one. Returns the log as means over 20 steps.

    Raises Interrupted after a signal, and InputError if a number is not finite.
    """
    trainer.stage, trainer.saver = stage, Saver(stage, options)
    trainer.remove_callback(trainer_callback.PrinterCallback)
    trainer.add_callback(TrainerProgress())
    trainer.add_callback(SaveInTime(trainer.saver))
    say_training_needs(trainer)
    with trainer.saver as saver:
        checkpoint = saver.latest()
        try:
            with naming_arguments(options.trainer):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except UnpicklingError as error:
            raise InputError(
                f"the checkpoint {checkpoint} contains pickled objects, which would run code; remove it"
            ) from error
    trainer.check_weights()
    if saver.stopping:
        saver.stop(trainer.state.global_step)
    return history([step for step in trainer.state.log_history if "loss" in step])


def history(steps: list[dict[str, float]], size: int = 20) -> list[dict[str, float]]:
    """A log averaged over every `size` steps; `step` is the last of them."""
    rows = []
    for start in range(0, len(steps), size):
        group = steps[start : start + size]
        names = dict.fromkeys(name for step in group for name in step if name not in ("step", "epoch"))
        numbers = {name: [step[name] for step in group if name in step] for name in names}
        means = {name: sum(values) / len(values) for name, values in numbers.items()}
        rows.append({"step": group[-1]["step"], **means})
    return rows
