"""The accuracy of reward models on held-out rankings: the share of pairs that their scores order correctly."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlhf import InputError
from rlhf.models import context_length, device, load_policy, load_scorer, stop_token_ids
from rlhf.reward import by_prompt, pad_ranks, pair_accuracy, score_sequences
from rlhf.rows import Row, Tally, read_lines, read_rows
from rlhf.tokens import comparison_dataset, load_tokenizer
from stages.common.run import Run
from stages.experiments.variants import Runs


@dataclass
class Rankings:
    """B rankings of at most K completions, as token ids."""

    rows: Sequence[Row]
    sequences: list[list[int]]  # prompt and completion, prompt after prompt
    ranks: Tensor  # (B, K) of the labeller, 0 for the best, NaN where a ranking has fewer completions
    pad_id: int

    def order(self) -> Tensor:
        """(B, K), lower for better: the true quality, or the labeller's ranks if the quality is not known."""
        if not all("quality" in row for row in self.rows):
            return self.ranks
        return pad_ranks([[-quality for quality in row["quality"]] for row in self.rows])

    def own(self) -> Tensor:
        """The same order, NaN for completions that were taken from other prompts."""
        swapped = pad_ranks([[float(s) for s in row.get("swapped", [0] * len(row["ranks"]))] for row in self.rows])
        return self.order().where(swapped == 0, torch.nan)


def read_rankings(runs: Runs, path: Path) -> Rankings:
    """The rankings of a file, with the tokenizer of the run's SFT model. Raises InputError if there are none."""
    if not path.is_file() or not any(read_lines(path)):
        raise InputError(f"{path} has no rankings to score: run `make comparisons` with a test_count above 0")
    source = str(Run(runs.base).find("sft"))
    tokenizer, rows = load_tokenizer(source), read_rows(path, "comparisons")
    longest, stops = context_length(load_policy(source, tokenizer)), stop_token_ids(source, tokenizer)
    dataset = comparison_dataset(rows, tokenizer, longest, Tally(), stops)
    sequences = [ids for sequences in dataset["sequences"] for ids in sequences]
    return Rankings([rows[i] for i in dataset["row"]], sequences, pad_ranks(dataset["ranks"]), tokenizer.pad_token_id)


def held_out(runs: Runs) -> Rankings:
    """The held-out rankings of the finished run."""
    return read_rankings(runs, Run(runs.base).find("comparisons") / "test.jsonl")


def scores_of(model: Path, rankings: Rankings) -> Tensor:
    """The scores (B, K) of the reward model in a folder, which may be a checkpoint."""
    scorer = load_scorer(model).to(device())
    return by_prompt(score_sequences(scorer, rankings.sequences, rankings.pad_id), rankings.ranks)


def accuracies(scores: Sequence[Tensor], order: Tensor, without: Tensor | None = None) -> np.ndarray:
    """For each model and each ranking with a pair, the share of pairs that is ordered correctly: (models, rankings).

    `scores` has a tensor (B, K) for each model; `order` (B, K) is lower for better, and NaN for what is left out.
    Pairs that the order `without` has too are left out. Raises InputError if no ranking has a pair.
    """
    rows = []
    for of_model in scores:
        correct, pairs = pair_accuracy(of_model, order)
        if without is not None:
            fewer = pair_accuracy(of_model, without)
            correct, pairs = correct - fewer[0], pairs - fewer[1]
        if not pairs.sum():
            raise InputError("no two completions of a held-out ranking differ in quality: there is no accuracy")
        rows.append((correct / pairs)[pairs > 0].numpy())
    return np.array(rows)
