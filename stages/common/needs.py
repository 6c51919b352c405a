"""What a stage will need, in a line before it works; and what would fit, after an error for lack of memory."""

from collections.abc import Sequence
from dataclasses import replace
from os.path import commonprefix
from typing import Any, cast

import numpy as np
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, Trainer

from rlhf.engine import decoding_memory, is_sharded, pass_memory, process_count, weight_memory
from rlhf.models import device
from rlhf.reward import RankingRewardTrainer
from rlhf.run.memory import SPARE, Needs, free_memory, parameter_count, ppo_needs, resident_memory, some_lengths
from rlhf.scoring import RewardFunctions, RewardModel
from rlhf.task import TaskTrainer
from rlhf.tokens import IGNORED
from rlhf.trainer import PPOTrainer
from stages.common import ending
from stages.common.console import say

# what libraries load after this module, such as compiled kernels: measured, bytes
LOADED_LATER = 1.5e8
LIBRARIES = resident_memory() + LOADED_LATER
SAMPLED_TOGETHER = 256  # responses, of `rlhf.rollout.sample_completions`


def say_needs(needs: Needs, option: str | None = None) -> None:
    """Prints what the stage needs. An error for lack of memory then names the value of `option` that would fit."""
    needs.libraries = LIBRARIES if device().type == "cpu" else 0.0  # a GPU holds no libraries
    loaded = resident_memory() if device().type == "cpu" else needs.weights
    room = SPARE * (free_memory(device()) + loaded)
    ending.hints.append(lambda: what_fits(needs, option, room))
    say(line(needs))


def line(needs: Needs) -> str:
    """`needs about 1.4 GB for 124 M parameters: weights 0.50, ...`, with the parts of its peak in GB."""
    training, sampling = needs.gradients + needs.activations(needs.rows), needs.sampling(needs.rows)
    parts = {"weights": needs.weights}
    if training >= sampling:
        parts |= {"gradients and moments": needs.gradients + needs.moments}
        parts |= {"activations": needs.activations(needs.rows), "libraries": needs.libraries}
        rest = f"; cache of keys and values {_gb(needs.cache)}, at another time" if needs.cache else ""
    else:
        parts |= {"moments": needs.moments, "cache of keys and values": needs.cache}
        parts |= {"rest of sampling": sampling - needs.cache, "libraries": needs.libraries}
        rest = ""
    shown = ", ".join(f"{name} {_gb(size)}" for name, size in parts.items() if size)
    each = " in each process" if process_count() > 1 else ""
    return f"needs about {_gb(needs.total())} GB{each} for {_millions(needs.parameters)} parameters: {shown}{rest}"


def what_fits(needs: Needs, option: str | None, room: float) -> str:
    """What is needed and what would fit: `micro_batch_size 64 needs about 9.0 GB, 16 would fit in 3.1 GB`."""
    name = f"{option} {needs.rows}" if option else "this stage"
    message = f"{name} needs about {_gb(needs.total())} GB"
    # it did not fit, whatever the formula says
    rows = min(needs.largest(room), needs.rows // 2) if option else 0
    if rows:
        return f"{message}, {rows} would fit in {_gb(needs.total(rows))} GB"
    return f"{message}, and there are {_gb(room)} GB: take a smaller model or shorter rows"


def _gb(size: float) -> str:
    """A size in GB: 12, 1.4, 0.35, 0.004."""
    size /= 1e9
    return f"{size:.0f}" if size >= 10 else f"{size:.1f}" if size >= 0.95 else f"{size:.2g}"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.0f} M" if count >= 10**7 else f"{count / 1e6:.2g} M"


# --- training ---------------------------------------------------------------------------------------------------------


def say_training_needs(trainer: Trainer) -> None:
    """Prints what pretraining, SFT or the reward model needs. The estimate measures passes of a whole model."""
    if not is_sharded(cast(nn.Module, trainer.model)):
        say_needs(training_needs(trainer), "batch_size")


def say_ppo_needs(trainer: PPOTrainer) -> None:
    """Prints what PPO needs."""
    if not trainer.sharded:
        frozen = [model for scores in (trainer.reward, trainer.functions, trainer.gold) for model in scorers(scores)]
        with trainer.accelerator.autocast():
            say_needs(ppo_needs(trainer, frozen), "micro_batch_size")


def training_needs(trainer: Trainer) -> Needs:
    """What pretraining, SFT or the reward model needs in its longest batch."""
    arguments, model = trainer.args, cast(PreTrainedModel, trainer.model)
    size, ranks = arguments.per_device_train_batch_size, isinstance(trainer, RankingRewardTrainer)
    was_training = model.training
    model.train()  # dropout keeps its masks
    with trainer.accelerator.autocast():
        passes = pass_memory(model, head=not ranks)
    model.train(was_training)
    checkpointed = any(
        getattr(arguments, name, False) for name in ("activation_checkpointing", "gradient_checkpointing")
    )
    passes = replace(passes, checkpointed=checkpointed)
    dataset = cast(Dataset, trainer.train_dataset)
    lengths, selected, shared = _longest_batch(dataset, size, "sequences" in dataset.column_names)
    if isinstance(trainer, TaskTrainer) and trainer.lm_coef:
        selected = sum(lengths) - shared

    def activations(rows: int) -> float:
        part = min(1.0, rows / size)
        return passes.peak(lengths[: max(1, round(len(lengths) * part))], selected * part, shared * part)

    gradients = weight_memory([model], trained=True)
    return Needs(
        parameters=parameter_count([model]),
        weights=weight_memory([model]),
        gradients=gradients * (2 if process_count() > 1 else 1),
        moments=gradients * (2 if "adam" in str(arguments.optim).lower() else 1),
        rows=size,
        activations=activations,
    )


def _longest_batch(dataset: Dataset, size: int, several: bool) -> tuple[list[int], int, int]:
    """The lengths of the sequences of the batch with the most tokens, its learned tokens, and its repeated ones."""
    start = 0
    if "length" in dataset.column_names:
        lengths = dataset.data.column("length").to_numpy()
        lengths = lengths if dataset._indices is None else lengths[dataset._indices.column(0).to_numpy()]
        sums = np.add.reduceat(lengths, np.arange(0, len(lengths), size))
        start = int(sums.argmax()) * size
    batch: dict[str, Any] = dataset[start : start + size]
    if several:  # sequences in a row, which share a prompt
        sequences = [ids for row in batch["sequences"] for ids in row]
        shared = sum(len(commonprefix(row)) * (len(row) - 1) for row in batch["sequences"])
        return [len(ids) for ids in sequences], 0, shared
    rows = batch["input_ids"]
    labels = batch.get("labels") or rows
    return [len(ids) for ids in rows], sum(label != IGNORED for row in labels for label in row), 0


# --- sampling ---------------------------------------------------------------------------------------------------------


def sampling_needs(
    models: Sequence[PreTrainedModel], others: Sequence[Any], prompts: Sequence[list[int]], response: int, rows: int
) -> Needs:
    """What it needs to sample `rows` responses at once from each of the models. `others` are scorers."""
    longest = max(some_lengths(prompts), default=1)
    cache = max(decoding_memory(model, rows, longest, response)[0] for model in models)
    return Needs(
        parameters=parameter_count([*models, *others]),
        weights=weight_memory([*models, *others]),
        rows=rows,
        sampling=lambda count: max(sum(decoding_memory(model, count, longest, response)) for model in models),
        cache=cache,
    )


def scorers(scores: Any) -> list[nn.Module]:
    """The models in what scores responses: a partial function of one, a `RewardModel`, or several by name."""
    if isinstance(scores, RewardFunctions):
        return [model for function in scores.functions.values() for model in scorers(function)]
    if isinstance(scores, RewardModel):
        return [cast(nn.Module, scores.model)]
    return [part for part in getattr(scores, "args", ()) if isinstance(part, nn.Module)]
