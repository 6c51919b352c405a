"""The score of a response: from a reward model, or from any Python function of the text.

A reward maps `Responses` to a score (B,) each. A reward model reads the sampled token ids. A reward function reads decoded
text, so it may use a tokenizer of its own.
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

# called with lists by keyword (prompts, completions, ...), returns scores; reward functions for TRL's GRPOTrainer fit
RewardFunction = Callable[..., Sequence[float | None]]


def reward_model_scores(reward_model: Scorer, responses: Responses) -> Tensor:
    """The reward model's score (B,) of each response, read at its last token, the eos if it has one."""
    last = responses.attention_mask.sum(dim=1).cumsum(dim=0) - 1
    return reward_model(responses.input_ids, responses.attention_mask, last, responses.prefix_row)


def function_scores(
    function: RewardFunction, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], responses: Responses
) -> Tensor:
    """The scores (B,) that a reward function gives to the responses; `rows` are those of all prompts."""
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
    """The scores of completions, from one call with lists by keyword. `rows` are those of their prompts.

    The function gets those of `prompts`, `completions`, `ended`, `completion_ids` and of the columns that all rows have
    that it takes. None becomes NaN. Raises InputError if it requires anything else, raises an error, or does not return
    one number for each completion.
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
    """The columns that the function takes. Raises InputError if it requires one that is not there."""
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
    """`file:line` of the last line of the function's own file that an error passed, else of the last line of all."""
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(inspect.unwrap(function), "__code__", None)
    frame = ([f for f in frames if code and f.filename == code.co_filename] or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}"
