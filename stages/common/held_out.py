"""Evaluation of the policy on held-out prompts while PPO trains, and the choice of the weights that are kept."""

import copy
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerState

from rlhf import InputError
from rlhf.engine import gathered_weights
from rlhf.evaluate import perplexity, without_nan
from rlhf.rollout import Rollout, random_numbers
from rlhf.rows import Row, read_jsonl, write_rows
from rlhf.run.checkpoint import load_state, save_state
from rlhf.run.randomness import seed_of
from rlhf.scoring import RewardFunctions, text_scores
from rlhf.trainer import PPOTrainer
from stages.common.console import say
from stages.common.options import PPOOptions

FILE = "held_out.jsonl"
BEST = "best"  # of a checkpoint: the best weights so far
PREFIX = "held_out/"


class HeldOut:
    """Evaluates a trainer's policy on the same prompts, with the same random numbers each time.

    Nothing that it does changes the training. `rows` are the held-out prompts, `prompts` their token ids, and
    `documents` those of held-out text, of which the perplexity is measured.
    """

    def __init__(
        self,
        options: PPOOptions,
        trainer: PPOTrainer,
        rows: Sequence[Row],
        prompts: Sequence[list[int]],
        documents: Sequence[list[int]],
    ):
        self.options, self.trainer = options, trainer
        self.rows, self.prompts, self.documents = rows, prompts, documents
        self.functions, self.gold = (_on_rows(function, rows) for function in (trainer.functions, trainer.gold))
        self.reward = trainer.reward
        if isinstance(self.reward, partial) and self.reward.func is text_scores:
            self.reward = partial(self.reward, rows=rows)
        self.records: list[Row] = []  # of each evaluation: the step, and the numbers of each prompt
        self.best: dict[str, Any] = {}  # the step whose weights are kept, its metric, and the weights

    def due(self, step: int) -> bool:
        """Whether the policy is evaluated after this step; 0 is before the first one."""
        return step % (self.options.eval_steps or 1) == 0 or step == self.options.steps

    def evaluate(self, step: int) -> dict[str, float]:
        """The metrics of the policy after this step. Keeps its weights if they are the best so far and may be kept."""
        record: dict[str, Any] = {"step": step}
        if self.functions is not None:
            updates = self.options.updates_per_step
            self.functions.trainer_state = TrainerState(
                global_step=step * updates, max_steps=self.options.steps * updates
            )
        for rollout in self._rollouts():
            for name, values in self._numbers(rollout).items():
                record.setdefault(name, []).extend(values)
        self.records.append(record)
        known = {name: without_nan([math.nan if v is None else v for v in record[name]]) for name in NUMBERS}
        metrics = {f"{PREFIX}{name}": float(values.mean()) for name, values in known.items() if len(values)}
        if self.documents:
            policy = self.trainer.saved_policy
            with gathered_weights(policy), self.trainer.accelerator.autocast():
                metrics[f"{PREFIX}perplexity"] = perplexity(policy, self.documents, self.trainer.pad_id)
        if self.options.keep == "best" and step:
            self._compare(step, metrics)
        return metrics

    def _rollouts(self) -> list[Rollout]:
        """One response to each prompt, in batches of the run's size, with scores."""
        options, trainer = self.options, self.trainer
        generator = torch.Generator().manual_seed(seed_of(options.seed, 6, 0, 0))
        rollouts = []
        for index in batches(len(self.prompts), options.batch_size, trainer.accelerator.num_processes):
            uniforms = random_numbers(options.response_length, len(index), generator)
            rollout = trainer.sample(trainer.saved_policy, self.prompts, index, uniforms, self.reward)
            if self.functions is not None:
                rollout.scores = self.functions(rollout, None if self.reward is None else rollout.scores)
            rollouts.append(rollout)
        return rollouts

    def _numbers(self, rollout: Rollout) -> dict[str, list]:
        """The numbers of each response by name, None where one is not known, and its text."""
        tensors = {"score": rollout.scores, "kl": rollout.kls, "length": rollout.lengths}
        if self.gold is not None:
            tensors["gold"] = self.gold(rollout)
        gold: Tensor = tensors.setdefault("gold", torch.full_like(rollout.scores, math.nan))
        assert len(gold) == len(rollout.scores)
        ids = [tokens[mask].tolist() for tokens, mask in zip(rollout.tokens, rollout.mask, strict=True)]
        numbers = {
            name: [number if math.isfinite(number) else None for number in tensors[name].tolist()] for name in NUMBERS
        }
        return {**numbers, "completions": self.trainer.tokenizer.batch_decode(ids, skip_special_tokens=True)}

    # --- the best weights -----------------------------------------------------------------------------------------

    def _compare(self, step: int, metrics: dict[str, float]) -> None:
        metric = next((name for name in ("gold", "score") if f"{PREFIX}{name}" in metrics), None)
        limit = self.options.keep_max_kl
        if metric is None or (limit is not None and metrics[f"{PREFIX}kl"] > limit):
            return
        value = metrics[f"{PREFIX}{metric}"]
        # gold may be unknown at some evaluations; a score is never compared with gold
        if not self.best or (metric == "gold", value) > (self.best["metric"] == "gold", self.best["value"]):
            weights = self.trainer.weights()
            copied = {name: {n: w.detach().cpu().clone() for n, w in model.items()} for name, model in weights.items()}
            self.best = {"step": step, "metric": metric, "value": value, "weights": copied}

    def restore_best(self) -> dict[str, Any]:
        """Gives the trainer the best weights; returns what was kept, for the record.

        Without an evaluation within `keep_max_kl` the last weights stay, so that no training is lost, with a warning.
        """
        if not self.best:
            limit = self.options.keep_max_kl
            say(f"warning: keeps the last weights, because the KL was above keep_max_kl {limit} at each evaluation")
            return {"step": self.trainer.steps_done, "metric": None, "value": None}
        self.trainer.load_weights(self.best["weights"])
        return {name: self.best[name] for name in ("step", "metric", "value")}

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes the evaluations so far, and the best weights."""
        self.save_records(folder)
        if self.best:
            save_state(folder / BEST, self.best)

    def save_records(self, folder: Path) -> None:
        """Writes the evaluations so far, as rows of a step and the numbers of each prompt."""
        write_rows(folder / FILE, self.records)

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote."""
        self.records = [row for _, row in read_jsonl(folder / FILE)]
        if (folder / f"{BEST}.json").is_file():
            self.best = load_state(folder / BEST)


NUMBERS = ("score", "gold", "kl", "length")


def batches(count: int, size: int, processes: int) -> list[Tensor]:
    """The indices of `count` rows in batches of `size`; the last one may be smaller.

    It has a row for each process, because a model can't compute an empty share: if it would have fewer, its rows are in
    the batch before it. Raises InputError if there are fewer rows than processes.
    """
    if count < processes:
        raise InputError(f"there are {count} held-out prompts for {processes} processes: each needs at least one")
    parts = list(torch.arange(count).split(size))
    if len(parts) > 1 and len(parts[-1]) < processes:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _on_rows(functions: Any, rows: Sequence[Row]) -> Any:
    """The same functions, called with the columns of other rows; what they log does not reach the originals."""
    if not isinstance(functions, RewardFunctions):
        return functions
    functions = copy.copy(functions)
    functions.rows, functions.logged, functions.extra = rows, {}, {}
    return functions
