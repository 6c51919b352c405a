"""What variants of PPO measured on held-out prompts, and estimates over seeds and prompts."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf.evaluate import Estimate, perplexity
from rlhf.models import context_length, load_policy
from rlhf.rows import read_jsonl, read_rows
from rlhf.tokens import load_tokenizer, text_dataset
from stages.common.held_out import FILE, PREFIX
from stages.common.ppo_log import LOG
from stages.common.run import Run, record_of
from stages.experiments.variants import Runs, Variant

DRAWS = 2000  # of the bootstrap


def evaluations(result: Path) -> list[dict[str, Any]]:
    """The evaluations of a finished PPO: its step, `score`, `gold`, `kl`, `length` of each prompt, and the perplexity.

    An entry of the log, such as `entropy`, is that of the step of the evaluation.
    """
    log = {row["step"]: row for _, row in read_jsonl(result / LOG)}
    rows = [row for _, row in read_jsonl(result / FILE)]
    return [{**log[row["step"]], **row, "perplexity": log[row["step"]].get(f"{PREFIX}perplexity")} for row in rows]


def option_of(runs: Runs, variant: Variant, name: str) -> Any:
    """The value of an option with which a variant's stage ran."""
    return record_of(runs.result(variant))["options"][name]


def last(runs: Runs, variants: Sequence[Variant], name: str) -> np.ndarray:
    """A number of each prompt after the last step, (variants, prompts); variants are the seeds of one setting."""
    return np.array([evaluations(runs.result(v))[-1][name] for v in variants], dtype=float)


def perplexities(runs: Runs, variants: Sequence[Variant], step: int = -1) -> np.ndarray:
    """The perplexity of held-out text after an evaluation, by default the last, (variants, 1)."""
    return np.array([[evaluations(runs.result(v))[step]["perplexity"]] for v in variants], dtype=float)


def perplexity_of(runs: Runs, stage: str) -> float:
    """The perplexity of a model of the finished run on the held-out text of the evaluations."""
    folder = Run(runs.base)
    tokenizer = load_tokenizer(str(folder.find(stage)))
    model = load_policy(str(folder.find(stage)), tokenizer).eval()
    count = record_of(folder.find("ppo"))["options"]["eval_count"]
    rows = read_rows(folder.find("data") / "text_test.jsonl", "text")[:count]
    documents = text_dataset(rows, tokenizer, context_length(model))["input_ids"]
    return perplexity(model, documents, tokenizer.pad_token_id)


def seconds(runs: Runs, variants: Sequence[Variant], step: int | None = None) -> float:
    """The mean seconds that the steps of PPO took up to this one, by default all, without evaluations.

    Without a GPU they are CPU seconds, as in `stage_seconds`.
    """
    sums = []
    for result in map(runs.result, variants):
        record = record_of(result)
        rows = [row for _, row in read_jsonl(result / LOG) if row["step"] and (step is None or row["step"] <= step)]
        taken = sum(record["options"]["batch_size"] / row["episodes_per_second"] for row in rows)
        sums.append(taken * stage_seconds(record) / record["seconds"])
    return float(np.mean(sums))


def stage_seconds(record: Mapping[str, Any]) -> float:
    """The seconds that a stage took: CPU seconds, because wall time depends on other work; on a GPU wall time."""
    return float(record["seconds"] if torch.cuda.is_available() else record["cpu_seconds"])


def estimate(numbers: np.ndarray, others: np.ndarray | None = None) -> Estimate:
    """The mean of numbers (seeds, prompts), or of their difference to `others`, with a 95 % bootstrap interval.

    The bootstrap resamples seeds, of each side on its own, and prompts, of both sides together. With three seeds it
    understates what another seed would change.
    """
    rng = np.random.default_rng(0)
    columns = rng.integers(numbers.shape[1], size=(DRAWS, numbers.shape[1]))

    def means(values: np.ndarray) -> np.ndarray:
        rows = rng.integers(len(values), size=(DRAWS, len(values)))
        return np.array([values[row][:, column].mean() for row, column in zip(rows, columns, strict=True)])

    value, drawn = numbers.mean(), means(numbers)
    if others is not None:
        value, drawn = value - others.mean(), drawn - means(others)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(float(value), float(low), float(high))


def row_of(**entries: Any) -> dict[str, Any]:
    """A row of a table: numbers with six digits, and an Estimate as three columns."""
    row: dict[str, Any] = {}
    for name, entry in entries.items():
        row |= entry.named(name) if isinstance(entry, Estimate) else {name: entry}
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in row.items()}


def sqrt_kl(kl: float) -> float:
    """The square root of a KL; 0 for an estimate below 0."""
    return math.sqrt(max(kl, 0.0))
