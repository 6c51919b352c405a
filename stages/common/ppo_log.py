"""Runs PPO's steps with logging: metrics per step on the screen and in log.jsonl, samples, checkpoints, trackers."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.rollout import Rollout
from rlhf.rows import Row, read_jsonl, write_rows
from rlhf.run.health import mismatch_warning
from rlhf.trainer import PPOTrainer, Step
from stages.common.console import INDENT, ProgressBar
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
    trainer: PPOTrainer, options: PPOOptions, stage: Stage, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """Runs the remaining steps, from the newest checkpoint if there is one; returns the metrics of all steps."""
    saver = Saver(stage, options)
    history = resume(trainer, saver)
    if options.log_with:
        start_trackers(trainer, f"{stage.run.folder.name}-{stage.name}", history)

    def save(folder: Path) -> None:
        trainer.save_state(folder)
        trainer.save_models(folder)  # ordinary models, so that a checkpoint can be used as one
        tokenizer.save_pretrained(folder)
        write_rows(folder / LOG, history)

    resumed, started = len(history), time.time()
    bar = ProgressBar(options.steps, done=resumed)
    write_rows(stage.partial / LOG, history)
    with open(stage.partial / LOG, "a", encoding="utf-8") as log, saver:
        for step in trainer.train():
            seconds, started = time.time() - started, time.time()
            metrics = {"step": step.number, **step.metrics, "episodes_per_second": options.batch_size / seconds}
            show_step(bar, step, metrics, trainer, first=step.number == resumed + 1)
            if options.show_samples and (step.number == 1 or step.number % options.show_samples == 0):
                extra = trainer.functions.extra if trainer.functions else {}
                bar.write(*samples(step.rollout, rows, tokenizer, extra))
            bar.update()
            history.append(metrics)
            log.write(json.dumps(metrics) + "\n")
            log.flush()
            trainer.accelerator.log(metrics, step.number)
            saver.after_step(step.number)
            if saver.save_now:
                saver.save(step.number, save)
            if saver.stopping and step.number < options.steps:
                saver.stop(step.number)
    bar.close()
    for tracker in trainer.accelerator.trackers:
        tracker.finish()  # Accelerate's end_training would also disconnect the processes
    return history


def resume(trainer: PPOTrainer, saver: Saver) -> list[dict[str, Any]]:
    """Restores the newest checkpoint, if there is one; returns the metrics of its steps."""
    history: list[dict[str, Any]] = []
    with saver.resuming() as checkpoint:
        if checkpoint:
            trainer.load_state(checkpoint)
            history = [row for _, row in read_jsonl(checkpoint / LOG)]
    return history


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
