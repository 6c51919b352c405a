"""What a response is worth: a reward model's score, or what any Python function makes of the text.

A reward is a function of `Responses` that returns a score (B,) for each. The reward model is given the ids that were
sampled; only functions of text, which may have a tokenizer of their own, see them decoded.
"""

import importlib
import inspect
import traceback
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
    scores = score_texts(function, asked, completions, responses.ended.tolist(), ids)
    return torch.tensor(scores, device=responses.mask.device)


def score_texts(
    function: TextFunction,
    rows: Sequence[Row],
    completions: Sequence[str],
    ended: Sequence[bool],
    completion_ids: Sequence[list[int]] | None = None,
) -> list[float]:
    """What a function makes of completions. It is called once, with lists, by keyword.

    It gets `prompts`, `completions`, `ended`, `completion_ids` where they are known, and every other column that all rows
    have, as far as it takes them. A None it returns becomes NaN. Raises InputError if it wants something else, raises
    something itself, or does not return a number for each.
    """
    name = getattr(function, "__qualname__", repr(function))
    given = {column: [row[column] for row in rows] for column in rows[0] if all(column in row for row in rows)}
    given |= {"prompts": [row["prompt"] for row in rows], "completions": list(completions), "ended": list(ended)}
    given |= {} if completion_ids is None else {"completion_ids": list(completion_ids)}
    parameters = inspect.signature(function).parameters.values()
    plain = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if missing := [p.name for p in plain if p.name not in given and p.default is p.empty]:
        raise InputError(f"{name} wants {', '.join(missing)}; what it can be given is {', '.join(given)}")
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        given = {p.name: given[p.name] for p in plain if p.name in given}
    try:
        scores = function(**given)
    except InputError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = getattr(inspect.unwrap(function), "__code__", None)
        at = [frame for frame in frames if own and frame.filename == own.co_filename][-1:] or frames[-1:]
        raise InputError(f"{name} raised {type(error).__name__}: {error} ({at[0].filename}:{at[0].lineno})") from error
    try:
        numbers = [float("nan") if score is None else float(score) for score in scores]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} returned {scores!r:.80}; it must return a number for each completion") from error
    if len(numbers) != len(completions):
        raise InputError(f"{name} returned {len(numbers)} scores for {len(completions)} completions")
    return numbers


def load_function(name: str) -> TextFunction:
    """The function named "module:function". Raises InputError where there is none."""
    how = "a function is named module:function, its module lies in the current folder or on PYTHONPATH"
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function or "-", None)
    except ModuleNotFoundError as error:
        raise InputError(f"no module {error.name} for {name}; {how}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{module!r} is no name of a module; {how}") from error
    except Exception as error:
        raise InputError(f"module {module} can't be imported ({type(error).__name__}: {error})") from error
    if not callable(found):
        raise InputError(f"no function {function!r} in module {module}; {how}")
    return found
