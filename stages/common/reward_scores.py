"""The scores that a reward model gives to answers, to held-out rankings and to any text, for evaluation."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlhf import InputError
from rlhf.classifiers import Scorer, classifier_config, is_decoder
from rlhf.engine import on_main
from rlhf.models import context_length, device, load_scorer, stop_token_ids
from rlhf.reward import score_sequences
from rlhf.rows import Row, Tally, Text
from rlhf.scoring import RewardModel
from rlhf.tokens import comparison_dataset, is_rendered, load_tokenizer, prompt_ids, same_vocabulary
from stages.common.answers import Answers
from stages.common.parsing import split_label
from stages.common.run import INPUT
from stages.common.stage import Stage


class RewardScores:
    """A reward model as a function of answers. It reads token ids if its tokenizer is the policy's, else text.

    It is loaded when it first scores something.
    """

    def __init__(self, name: str, source: str, label: str | None, stop_source: str):
        """`source` is a folder or hub id; `stop_source` names the model whose stop tokens end a completion."""
        self.name, self.source, self.label, self.stop_source = name, source, label, stop_source

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the model if it can read token ids, else None."""
        config = classifier_config(self.source)
        if self.label is not None or not is_decoder(config) or config.num_labels != 1:
            return None
        try:
            return load_tokenizer(self.source)
        except InputError:
            return None

    @cached_property
    def scorer(self) -> Scorer:
        """The model for token ids."""
        return load_scorer(self.source).to(device())

    @cached_property
    def text(self) -> RewardModel:
        """The model for text."""
        return RewardModel(self.source, self.label)

    @property
    def model(self) -> nn.Module:
        """The model that scores answers, loaded."""
        return self.scorer if self.tokenizer is not None else self.text.model

    def of_answers(self, answers: Answers) -> Tensor:
        """The scores of answers, (B,), on the CPU."""
        own = answers.model.tokenizer
        if self.tokenizer is not None and same_vocabulary(own, self.tokenizer):
            return score_sequences(self.scorer, answers.sequences, own.pad_token_id)
        texts = [completion.text for completion in answers.completions]
        return torch.tensor(self.of_texts(answers.rows, texts, [c.finished for c in answers.completions]))

    def of_texts(self, rows: Sequence[Row], completions: Sequence[Text], finished: Sequence[bool]) -> list[float]:
        """The scores of completions as text; `rows[i]` is the row of the prompt of completion i."""
        prompts, tools = [row["prompt"] for row in rows], [row.get("tools") for row in rows]
        rendered = [is_rendered(row) for row in rows]
        return on_main(lambda: self.text(prompts, completions, finished, tools, rendered))

    def of_rankings(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of rankings.jsonl: each ranking with its scores before normalisation and its lengths in tokens.

        The probability that the model gives to "i is better than j" is sigmoid(scores[i] - scores[j]). Rankings that are
        too long for the model are left out. Raises InputError if none is left.
        """
        if self.tokenizer is None:
            return self._of_text_rankings(rows)
        longest, stops = context_length(self.scorer.model), stop_token_ids(self.stop_source, self.tokenizer)
        dataset = comparison_dataset(rows, self.tokenizer, longest, Tally(used=len(rows)), stops)
        kept = [rows[i] for i in dataset["row"]]
        prompts = prompt_ids(
            self.tokenizer, [r["prompt"] for r in kept], [r.get("tools") for r in kept], [is_rendered(r) for r in kept]
        )
        sequences = [ids for row in dataset["sequences"] for ids in row]
        scores = score_sequences(self.scorer, sequences, self.tokenizer.pad_token_id).tolist()
        lengths = [
            len(ids) - len(prompt) for row, prompt in zip(dataset["sequences"], prompts, strict=True) for ids in row
        ]
        return ranking_rows(kept, raw(scores, self.scorer.config), lengths)

    def _of_text_rankings(self, rows: Sequence[Row]) -> list[Row]:
        """The same from a model that reads text. No ranking is left out: longer ones are cut at the left."""
        repeated = [row for row in rows for _ in row["completions"]]
        completions = [completion for row in rows for completion in row["completions"]]
        ended = [flag for row in rows for flag in row.get("ended", [True] * len(row["completions"]))]
        scores = self.of_texts(repeated, completions, ended)
        texts = [text if isinstance(text, str) else str(text[-1]["content"]) for text in completions]
        ids = self.text.tokenizer(texts, add_special_tokens=False).input_ids
        lengths = [len(own) + flag for own, flag in zip(ids, ended, strict=True)]  # with the stop token
        return ranking_rows(rows, raw(scores, self.text.config), lengths)


def raw(scores: Sequence[float], config: Any) -> list[float]:
    """Scores before the normalisation that the configuration of their model holds."""
    mean, deviation = getattr(config, "score_mean", 0.0), getattr(config, "score_std", 1.0)
    return (np.asarray(scores) * deviation + mean).tolist()


def ranking_rows(rows: Sequence[Row], scores: Sequence[float], lengths: Sequence[int]) -> list[Row]:
    """The rows of rankings.jsonl; `scores` and `lengths` are those of all completions, row after row."""
    starts = np.cumsum([0, *(len(row["completions"]) for row in rows)])
    return [
        {
            **{name: row.get(name) for name in ("prompt", "task", "completions", "ranks", "quality", "swapped")},
            "scores": list(scores[start:end]),
            "lengths": list(lengths[start:end]),
        }
        for row, start, end in zip(rows, starts, starts[1:], strict=False)
    ]


def load_reward_scores(name: str | None, stage: Stage) -> RewardScores | None:
    """The reward model with this name, folder#label, or by default the run's; None without one."""
    if name is not None:
        source, label = split_label(name)
        return RewardScores(name, stage.model(source, "reward"), label, source)
    folder = Path(stage.model(f"{INPUT}reward", "reward"))
    if not folder.is_dir():
        return None
    sft = stage.input(f"{INPUT}sft")
    return RewardScores("reward", str(folder), None, str(sft if sft.is_dir() else folder))
