"""Models that answer prompts, for samples and evaluate."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf import InputError
from rlhf.evaluate import without_nan
from rlhf.models import load_policy, max_prompt_length, on_device
from rlhf.rollout import Completion, sample_completions
from rlhf.rows import Row, Tally
from rlhf.scoring import RewardFunction, call_reward_function
from rlhf.tokens import load_tokenizer, prompt_dataset
from stages.common.console import say, show_output
from stages.common.needs import SAMPLED_TOGETHER, sampling_needs, say_needs
from stages.common.options import CHAIN
from stages.common.run import INPUT
from stages.common.stage import Stage


@dataclass
class Answerer:
    """A model that answers prompts, with its tokenizer and its name in the output."""

    name: str
    source: str
    policy: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def answer(self, rows: list[Row], response_length: int, temperature: float, seed: int) -> list[Completion]:
        """One completion of each row's prompt. Raises InputError if a prompt leaves no room for a response."""
        tally = Tally(used=len(rows))
        prompts = prompt_dataset(rows, self.tokenizer, max_prompt_length(self.policy, response_length), tally)
        if tally.dropped:
            raise InputError(f"{self.name} can't answer every prompt: {tally}; shorten them, or lower response_length")
        return sample_completions(
            self.policy,
            self.tokenizer,
            prompts["input_ids"],
            response_length=response_length,
            temperature=temperature,
            seed=seed,
        )


@dataclass
class Answers:
    """A model's answers to the held-out prompts at one temperature (0: greedy), and what is known of each answer."""

    model: Answerer
    rows: list[Row]
    temperature: float
    prompts: list[list[int]]
    completions: list[Completion]
    gold: list[float] | None = None
    scores: Tensor | None = None  # (B,), of the reward model
    kl: np.ndarray | None = None  # (B,), log-ratio to the SFT model, nats

    @property
    def sequences(self) -> list[list[int]]:
        """The token ids of each prompt with its completion."""
        return [prompt + completion.ids for prompt, completion in zip(self.prompts, self.completions, strict=True)]

    @property
    def texts(self) -> list[str]:
        """The answers as text."""
        return [completion.text for completion in self.completions]

    def as_rows(self, name: str | None = None, chosen: Sequence[int] | None = None) -> list[Row]:
        """The rows of answers.jsonl under the model's name or another one; `chosen` are the indices of some answers."""

        def number(values: Any, i: int) -> float | None:
            return None if values is None or not math.isfinite(value := float(values[i])) else value

        return [
            {
                "prompt": self.rows[i]["prompt"],
                "task": self.rows[i].get("task"),
                "model": name or self.model.name,
                "temperature": self.temperature,
                "completion": self.completions[i].text,
                "finished": self.completions[i].finished,
                "length": len(self.completions[i].ids),
                "score": number(self.scores, i),
                "gold": number(self.gold, i),
                "kl": number(self.kl, i),
            }
            for i in (range(len(self.completions)) if chosen is None else chosen)
        ]


def answerable(rows: Sequence[Row], answerers: list[Answerer], response_length: int) -> list[Row]:
    """The rows whose prompts leave room for a response in every model's context; prints how many are dropped."""
    for model in answerers:
        longest, tally = max_prompt_length(model.policy, response_length), Tally(used=len(rows))
        rows = [rows[i] for i in prompt_dataset(rows, model.tokenizer, longest, tally)["row"]]
        if tally.dropped:
            reasons = ", ".join(tally.dropped)
            say(f"{tally.dropped.total():,} prompts dropped for all models: {reasons} for {model.name}")
    return list(rows)


def say_answering_needs(
    answerers: list[Answerer], others: Sequence[Any], rows: list[Row], response: int, count: int
) -> None:
    """Prints the memory that it takes to sample `count` answers to the rows. `others` are what scores them."""
    prompts = [
        ids
        for model in answerers
        for ids in prompt_dataset(rows, model.tokenizer, sys.maxsize, Tally(used=len(rows)))["input_ids"]
    ]
    models = [model.policy for model in answerers]
    say_needs(sampling_needs(models, others, prompts, response, min(count, SAMPLED_TOGETHER)))


def load_answerers(names: list[str], stage: Stage) -> list[Answerer]:
    """The named models: stages of the run, folders or hub ids. Stages that have not finished are left out.

    Raises InputError if a folder or hub id holds no model, or if no model is left.
    """
    answerers = []
    for name in names:
        of_run = stage.run.path(f"{INPUT}{name}")
        source = stage.model(f"{INPUT}{name}" if of_run.is_dir() or name in CHAIN else name, "sft")
        if name in CHAIN and not of_run.is_dir():
            continue
        tokenizer = load_tokenizer(source)
        policy = on_device(load_policy(source, tokenizer))
        answerers.append(Answerer(Path(name).name, source, policy, tokenizer))
    if not answerers:
        raise InputError(f"{stage.run.folder} has none of {', '.join(names)}: run `make sft` or `make ppo` first")
    return answerers


def gold_of(function: RewardFunction | None, rows: list[Row], completions: list[Completion]) -> list[float] | None:
    """The true quality of completions from the gold function, NaN if unknown; None if all are unknown."""
    if function is None:
        return None
    texts, finished = [c.text for c in completions], [c.finished for c in completions]
    gold = call_reward_function(function, rows, texts, finished, show=show_output)
    return gold if len(without_nan(gold)) else None
