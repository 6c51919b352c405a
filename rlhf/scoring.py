"""What a response is worth: a reward model's score, or what any Python function makes of the text.

A reward is a function of `Responses` that returns a score (B,) for each. The reward model is given the ids that were
sampled; only functions of text, which may have a tokenizer of their own, see them decoded.
"""

import importlib
import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.data import Row
from rlhf.errors import InputError
from rlhf.models import Scorer
from rlhf.rollout import Responses

# prompts, completions, ... by keyword -> scores; a reward function written for TRL's GRPOTrainer is one
TextFunction = Callable[..., Sequence[float]]


def last_token_scores(reward_model: Scorer, responses: Responses) -> Tensor:
    """The reward model's score (B,) of each response, read at its last token, the eos if it has one."""
    last = responses.attention_mask.sum(dim=1).cumsum(dim=0) - 1
    return reward_model(responses.input_ids, responses.attention_mask, last, responses.first)


def text_scores(
    function: TextFunction, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], responses: Responses
) -> Tensor:
    """The scores (B,) that a function gives to completions as text, knowing the row of each one's prompt."""
    ids = [tokens[mask].tolist() for tokens, mask in zip(responses.tokens, responses.mask, strict=True)]
    completions = tokenizer.batch_decode(ids, skip_special_tokens=True)
    asked = [rows[i] for i in responses.source.tolist()]
    scores = score_texts(function, asked, completions, responses.ended.tolist())
    return torch.tensor(scores, device=responses.mask.device)


def score_texts(
    function: TextFunction, rows: Sequence[Row], completions: Sequence[str], ended: Sequence[bool]
) -> list[float]:
    """What a function makes of completions. It is called once, with lists, by keyword.

    It gets `prompts`, `completions`, `ended` and every other column that all rows have, as far as it takes them. A None
    it returns becomes NaN. Raises InputError if it does not return a number for each.
    """
    given = {column: [row[column] for row in rows] for column in rows[0] if all(column in row for row in rows)}
    given |= {"prompts": [row["prompt"] for row in rows], "completions": list(completions), "ended": list(ended)}
    parameters = inspect.signature(function).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        given = {parameter.name: given[parameter.name] for parameter in parameters if parameter.name in given}
    scores = function(**given)
    if len(scores) != len(completions):
        name = getattr(function, "__qualname__", repr(function))
        raise InputError(f"{name} returned {len(scores)} scores for {len(completions)} completions")
    return [float("nan") if score is None else float(score) for score in scores]


def load_function(name: str) -> TextFunction:
    """The function named "module:function". Raises InputError where there is none."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function or "-", None)
    except ModuleNotFoundError as error:
        raise InputError(f"no module {error.name} for {name}; a function is named module:function") from error
    if not callable(found):
        raise InputError(f"no function {function!r} in module {module}; a function is named module:function")
    return found
