"""Scores of responses, from a reward model or from a Python function of the text.

A reward maps `Responses` to scores (B,). A reward model reads the sampled token ids, so it must share the policy's
tokenizer. A reward function reads decoded text.
"""

import inspect
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf import InputError
from rlhf.models import Scorer
from rlhf.rollout import Responses
from rlhf.rows import Row

# takes lists by keyword (prompts, completions, ...) and returns scores, like the reward functions of TRL's GRPOTrainer
RewardFunction = Callable[..., Sequence[float | None]]


def reward_model_scores(reward_model: Scorer, responses: Responses) -> Tensor:
    """The reward model's score (B,) at the last token of each response, which is its eos unless it was truncated."""
    last = responses.attention_mask.sum(dim=1).cumsum(dim=0) - 1
    return reward_model(responses.input_ids, responses.attention_mask, last, responses.prefix_row)


def function_scores(
    function: RewardFunction, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], responses: Responses
) -> Tensor:
    """A reward function's scores (B,) of the responses. `rows[i]` is the row of the prompt with `prompt_index` i."""
    ids = [tokens[mask].tolist() for tokens, mask in zip(responses.tokens, responses.mask, strict=True)]
    completions = tokenizer.batch_decode(ids, skip_special_tokens=True)
    prompt_rows = [rows[i] for i in responses.prompt_index.tolist()]
    scores = call_reward_function(function, prompt_rows, completions, responses.finished.tolist(), ids)
    return torch.tensor(scores, device=responses.mask.device)


def call_reward_function(
    function: RewardFunction,
    rows: Sequence[Row],
    completions: Sequence[str],
    finished: Sequence[bool],
    completion_ids: Sequence[list[int]] | None = None,
) -> list[float]:
    """The scores of completions, from one call of the function. `rows` holds the row of each completion's prompt.

    The function may take, by name, `prompts`, `completions`, `ended`, `completion_ids` (if given) and any column that
    all rows have; each is a list with one entry per completion. A score of None becomes NaN. Raises InputError if the
    function requires any other argument, raises an error, or does not return one number for each completion.
    """
    columns: dict[str, list[Any]] = {c: [row[c] for row in rows] for c in rows[0] if all(c in row for row in rows)}
    columns |= {"prompts": [row["prompt"] for row in rows], "completions": list(completions), "ended": list(finished)}
    columns |= {} if completion_ids is None else {"completion_ids": list(completion_ids)}
    name = _name_of(function)
    try:
        scores = function(**_accepted(function, columns))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} raised {type(error).__name__}: {error} ({_origin(function, error)})") from error
    try:
        numbers = [float("nan") if score is None else float(score) for score in scores]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} returned {scores!r:.80}; it must return a number for each completion") from error
    if len(numbers) != len(completions):
        raise InputError(f"{name} returned {len(numbers)} scores for {len(completions)} completions")
    return numbers


def _accepted(function: RewardFunction, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The columns that the function takes as arguments. Raises InputError if it requires one that does not exist."""
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if missing := [p.name for p in named if p.name not in columns and p.default is p.empty]:
        raise InputError(f"{_name_of(function)} requires {', '.join(missing)}; available: {', '.join(columns)}")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return columns
    return {p.name: columns[p.name] for p in named if p.name in columns}


def _name_of(function: RewardFunction) -> str:
    return getattr(function, "__qualname__", repr(function))


def _origin(function: RewardFunction, error: Exception) -> str:
    """`file:line` of the innermost frame of the error in the function's file, or of the innermost frame of all."""
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(inspect.unwrap(function), "__code__", None)
    frame = ([f for f in frames if code and f.filename == code.co_filename] or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}"
