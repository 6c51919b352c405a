"""Runs PPO's steps with logging: metrics per step on the screen and in log.jsonl, samples, checkpoints, trackers."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.rollout import Rollout
from rlhf.rows import Row, read_jsonl, write_rows
from rlhf.run.health import mismatch_warning
from rlhf.trainer import PPOTrainer, Step
from stages.common.console import INDENT, ProgressBar
from stages.common.held_out import PREFIX, HeldOut
from stages.common.options import PPOOptions
from stages.common.resume import Saver
from stages.common.stage import Stage

LOG = "log.jsonl"
# metric -> (heading on the screen, decimal places)
COLUMNS = {
    "step": ("step", 0),
    "score": ("score", 2),
    "gold": ("gold", 2),
    "kl": ("KL", 2),
    "entropy": ("entropy", 2),
    "ptx_loss": ("ptx loss", 3),
    "length": ("length", 1),
    "ended": ("ended", 3),
    "episodes_per_second": ("ep/s", 1),
}


def train_and_log(
    trainer: PPOTrainer,
    options: PPOOptions,
    stage: Stage,
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    held_out: HeldOut | None = None,
) -> list[dict[str, Any]]:
    """Runs the remaining steps, from the newest checkpoint if there is one; returns the metrics of all steps.

    `held_out` evaluates the policy before the first step, as step 0, and between steps.
    """
    saver = Saver(stage, options)
    history = resume(trainer, saver, held_out)
    if options.log_with:
        start_trackers(trainer, f"{stage.run.folder.name}-{stage.name}", history)
    bar = ProgressBar(options.steps, done=trainer.steps_done)
    write_rows(stage.partial / LOG, history)
    with open(stage.partial / LOG, "a", encoding="utf-8") as log, saver:
        for step, metrics in steps(trainer, options, rows, tokenizer, held_out, bar):
            history.append(metrics)
            log.write(json.dumps(metrics) + "\n")
            log.flush()
            trainer.accelerator.log(metrics, step)
            if step:
                save_if_due(saver, step, options, partial(save, trainer, tokenizer, history, held_out))
    bar.close()
    if held_out:
        held_out.save_records(stage.partial)
    for tracker in trainer.accelerator.trackers:
        tracker.finish()  # Accelerate's end_training would also disconnect the processes
    return history


def steps(
    trainer: PPOTrainer,
    options: PPOOptions,
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    held_out: HeldOut | None,
    bar: ProgressBar,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Runs the remaining steps, and prints them; yields the number of each and its metrics.

    If `held_out` is given, step 0 has the evaluation before the first step.
    """
    resumed = trainer.steps_done
    if held_out and not resumed:
        yield 0, {"step": 0, **evaluate(held_out, 0, bar)}
    started = time.time()
    for step in trainer.train():
        metrics = {"step": step.number, **step.metrics}
        metrics["episodes_per_second"] = options.batch_size / (time.time() - started)
        show_step(bar, step, metrics, trainer, first=step.number == resumed + 1)
        show_samples(bar, step, rows, options, trainer, tokenizer)
        if held_out and held_out.due(step.number):
            metrics |= evaluate(held_out, step.number, bar)
        bar.update()
        yield step.number, metrics
        started = time.time()


def save_if_due(saver: Saver, step: int, options: PPOOptions, write: Callable[[Path], None]) -> None:
    """Saves a checkpoint if one is due, or if a signal has arrived, which also ends the stage before the last step."""
    saver.after_step(step)
    if saver.save_now:
        saver.save(step, write)
    if saver.stopping and step < options.steps:
        saver.stop(step)


def save(
    trainer: PPOTrainer,
    tokenizer: PreTrainedTokenizerBase,
    history: list[dict[str, Any]],
    held_out: HeldOut | None,
    folder: Path,
) -> None:
    """Fills the folder of a checkpoint."""
    trainer.save_state(folder)
    trainer.save_models(folder)  # ordinary models, so that a checkpoint can be used as one
    tokenizer.save_pretrained(folder)
    write_rows(folder / LOG, history)
    if held_out:
        held_out.save(folder)


def resume(trainer: PPOTrainer, saver: Saver, held_out: HeldOut | None = None) -> list[dict[str, Any]]:
    """Restores the newest checkpoint, if there is one; returns the metrics of its steps."""
    history: list[dict[str, Any]] = []
    with saver.resuming() as checkpoint:
        if checkpoint:
            trainer.load_state(checkpoint)
            history = [row for _, row in read_jsonl(checkpoint / LOG)]
            if held_out:
                held_out.load(checkpoint)
    return history


def evaluate(held_out: HeldOut, step: int, bar: ProgressBar) -> dict[str, float]:
    """The metrics of an evaluation on held-out prompts, which it also prints."""
    metrics = held_out.evaluate(step)
    shown = ", ".join(f"{name.removeprefix(PREFIX)} {value:.2f}" for name, value in metrics.items())
    bar.write(f"{INDENT}held-out prompts after step {step}: {shown}")
    return metrics


def start_trackers(trainer: PPOTrainer, project: str, history: list[dict[str, Any]]) -> None:
    """Starts Accelerate's trackers, and logs `history`, the metrics of the steps before a resume."""
    trainer.accelerator.init_trackers(project)
    for metrics in history:
        trainer.accelerator.log(metrics, metrics["step"])


def show_step(bar: ProgressBar, step: Step, metrics: dict[str, Any], trainer: PPOTrainer, first: bool) -> None:
    """Prints a step's metrics above the progress bar, with column headings on the first step and every 20 steps.

    The checks of the trainer come before the first step. If the probability ratio is unusual for the mixed precision, a
    warning follows.
    """
    if first:
        bar.write(f"{INDENT}{trainer.sanity_report}")
    shown = {heading: (metrics[name], digits) for name, (heading, digits) in COLUMNS.items() if name in metrics}
    if first or step.number % 20 == 1:
        bar.write(INDENT + "".join(f"{heading:>9}" for heading in shown))
    bar.write(INDENT + "".join(f"{number:9.{digits}f}" for number, digits in shown.values()))
    if warning := mismatch_warning(metrics, trainer.accelerator.mixed_precision):
        bar.write(f"{INDENT}{warning}")


def show_samples(
    bar: ProgressBar,
    step: Step,
    rows: Sequence[Row],
    options: PPOOptions,
    trainer: PPOTrainer,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Prints the first responses of the first step, and of every `show_samples` steps."""
    if options.show_samples and (step.number == 1 or step.number % options.show_samples == 0):
        extra = trainer.functions.extra if trainer.functions else {}
        bar.write(*samples(step.rollout, rows, tokenizer, extra))


def samples(
    rollout: Rollout, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, extra: Mapping[str, Sequence[Any]]
) -> list[str]:
    """Lines with the first two responses of a step, each with its score, its KL and its values in `extra`.

    Text from data is behind a `|`.
    """
    lines, kls = [""], rollout.kls
    for i in range(min(2, len(kls))):
        prompt = rows[int(rollout.prompt_index[i])]["prompt"]
        response = str(tokenizer.decode(rollout.tokens[i][rollout.mask[i]], skip_special_tokens=True))
        question = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        lines += [f"{INDENT}  | {line}" for text in (question, response.strip()) for line in text.split("\n")]
        lines += [f"{INDENT}  | {column}: {values[i]!s:.200}" for column, values in extra.items()]
        lines += [f"{INDENT}    (score {rollout.scores[i]:.2f}, KL {kls[i]:.2f})", ""]
    return lines


def response_rows(rollout: Rollout, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """The responses with all their numbers, as rows. Numbers are strings, because JSON lacks NaN."""
    result = []
    for i in range(len(rollout.mask)):
        ids = rollout.tokens[i][rollout.mask[i]]
        tensors = {name: getattr(rollout, name)[i][rollout.mask[i]] for name in ("logprobs", "ref_logprobs", "values")}
        result.append(
            {
                "prompt": rows[int(rollout.prompt_index[i])]["prompt"],
                "response": tokenizer.decode(ids, skip_special_tokens=True),
                "ended": bool(rollout.finished[i]),
                "score": f"{rollout.scores[i]:.4g}",
                "kl": f"{rollout.kls[i]:.4g}",
                **{name: " ".join(f"{number:.4g}" for number in tensor) for name, tensor in tensors.items()},
            }
        )
    return result
