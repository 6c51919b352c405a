"""Answers of a model of the finished run to its validation prompts, with scores of reward models and gold."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlhf.models import device, load_policy, load_scorer, on_device
from rlhf.reward import score_sequences
from rlhf.rollout import Completion, sample_completions
from rlhf.rows import Row, read_rows
from rlhf.scoring import call_reward_function
from rlhf.tokens import completion_ids, load_tokenizer, prompt_ids
from stages.common.parsing import load_function
from stages.common.run import Run, record_of
from stages.experiments.variants import Runs


def validation_rows(runs: Runs) -> list[Row]:
    """The prompts on which PPO is evaluated, as rows."""
    options = record_of(Run(runs.base).find("ppo"))["options"]
    path = Path(options["eval_prompts"] or Run(runs.base).find("data") / "prompts_validation.jsonl")
    return list(read_rows(path, "prompts")[: options["eval_count"]])


def gold_of(runs: Runs, rows: Sequence[Row], texts: Sequence[str], finished: Sequence[bool]) -> np.ndarray:
    """The true quality of answers, (B,), from the gold function of the run's PPO."""
    name = record_of(Run(runs.base).find("ppo"))["options"]["gold"]
    return np.array(call_reward_function(load_function(name), rows, texts, finished))


@dataclass
class Pool:
    """N sampled answers to each of several prompts."""

    rows: list[Row]  # of the prompts
    sequences: list[list[int]]  # token ids of prompt and answer, N after each other for each prompt
    gold: np.ndarray  # (prompts, N)

    def scores(self, reward_model: Path) -> np.ndarray:
        """The scores (prompts, N) of a reward model."""
        tokenizer = load_tokenizer(str(reward_model))
        scorer = load_scorer(str(reward_model), tokenizer).to(device())
        return score_sequences(scorer, self.sequences, tokenizer.pad_token_id).numpy().reshape(self.gold.shape)


def sample_pool(runs: Runs, count: int) -> Pool:
    """`count` answers of the SFT model to each validation prompt."""
    rows = validation_rows(runs)
    source = str(Run(runs.base).find("sft"))
    tokenizer = load_tokenizer(source)
    policy = on_device(load_policy(source, tokenizer))
    prompts = prompt_ids(tokenizer, [row["prompt"] for row in rows], [None] * len(rows), [False] * len(rows))
    repeated = [ids for ids in prompts for _ in range(count)]
    length = record_of(Run(runs.base).find("ppo"))["options"]["response_length"]
    answers: list[Completion] = sample_completions(
        policy, tokenizer, repeated, response_length=length, temperature=1.0, seed=7
    )
    gold = gold_of(
        runs,
        [row for row in rows for _ in range(count)],
        [answer.text for answer in answers],
        [answer.finished for answer in answers],
    )
    sequences = [ids + answer.ids for ids, answer in zip(repeated, answers, strict=True)]
    return Pool(rows, sequences, gold.reshape(len(rows), count))


def best_of(scores: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """The expected value (prompts,) of the highest-scoring of n answers, drawn without replacement from N; both (prompts, N).

    The answer of rank i (from 1) by score is the best of C(i - 1, n - 1) of the C(N, n) subsets.
    """
    count = scores.shape[1]
    ordered = np.take_along_axis(values, scores.argsort(axis=1, kind="stable"), axis=1)
    weights = np.zeros(count)
    weights[-1] = n / count
    for i in range(count - 1, n - 1, -1):  # C(i - 1, n - 1) / C(i, n - 1) = (i - n + 1) / i
        weights[i - 1] = weights[i] * (i - n + 1) / i
    return np.asarray(ordered @ weights)


def scores_of_texts(runs: Runs, reward_model: Path, texts: Sequence[str]) -> np.ndarray:
    """The scores (B,) of finished answers, one to each validation prompt, encoded as the reward model learned them."""
    rows = validation_rows(runs)[: len(texts)]
    tokenizer = load_tokenizer(str(reward_model))
    prompts = [row["prompt"] for row in rows]
    ids = prompt_ids(tokenizer, prompts, [None] * len(rows), [False] * len(rows))
    # an answer without text is its stop token alone
    some = [i for i, text in enumerate(texts) if text]
    answers = [[tokenizer.eos_token_id]] * len(rows)
    encoded = completion_ids(tokenizer, [prompts[i] for i in some], [texts[i] for i in some])
    for i, answer in zip(some, encoded, strict=True):
        answers[i] = answer
    scorer = load_scorer(str(reward_model), tokenizer).to(device())
    sequences = [prompt + answer for prompt, answer in zip(ids, answers, strict=True)]
    return score_sequences(scorer, sequences, tokenizer.pad_token_id).numpy()
