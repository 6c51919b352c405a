"""Refuses models for which sampling or training would give other log-probabilities than transformers' forward pass.

Examples are models without a cache of keys and values, positions that count padding, and recurrent layers that read it.
Sampling and PPO pad on the left; pretraining, SFT and the reward model pad on the right, which more models support.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf import InputError, first_line
from rlhf.engine.decoding import Decoder
from rlhf.engine.forward import selected_states
from rlhf.engine.support import close, probe_ids
from rlhf.engine.vocabulary import only_tokens

PROMPT_LENGTHS, STEPS = (6, 3), 4  # tokens
PADDING = "it counts padding as positions, or has recurrent layers that read padding"


def check_sampling(model: PreTrainedModel) -> None:
    """Computes a few tokens by decoding, in a left-padded batch as an update of PPO does, and each row alone.

    Raises InputError, with the name of the model's class, if the results differ or the model raises an error.
    """
    rows = [probe_ids(model, length + STEPS) for length in PROMPT_LENGTHS]
    with _exact(model):
        expected = [_attempt(model, "its forward pass", _alone, row)[0] for row in rows]
        decoded = _attempt(model, "sampling", _decoded, rows)
        updated = _attempt(model, "a padded batch", _batched, rows, "left")
    sampled = [logits[-STEPS - 1 : -1] for logits in expected]
    _compare(model, "sampling with a cache and left padding", decoded, sampled, PADDING)
    _compare(model, "a padded batch", updated, expected, PADDING)


def check_training(model: PreTrainedModel) -> None:
    """Computes a few tokens in a right-padded batch, as SFT does, each row alone, and the beginning of each row alone.

    Raises InputError, with the name of the model's class, if the results differ or the model raises an error. The
    beginning differs if a token reads those after it, which a loss on the next token must exclude.
    """
    rows = [probe_ids(model, length + STEPS) for length in PROMPT_LENGTHS]
    with _exact(model):
        expected = [_attempt(model, "its forward pass", _alone, row)[0] for row in rows]
        begun = [_attempt(model, "its forward pass", _alone, row[:-STEPS])[0] for row in rows]
        batched = _attempt(model, "a right-padded batch", _batched, rows, "right")
    _compare(model, "a right-padded batch", batched, expected, PADDING)
    _compare(model, "a later token", begun, [logits[:-STEPS] for logits in expected], "its attention is not causal")


@contextmanager
def _exact(model: PreTrainedModel) -> Iterator[None]:
    """A context of evaluation in full precision."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            yield
    finally:
        model.train(training)


def _compare(model: PreTrainedModel, what: str, results: list[Tensor], expected: list[Tensor], cause: str) -> None:
    for result, logits in zip(results, expected, strict=True):
        tokens = logits.isfinite()
        if not close(result[tokens], logits[tokens]):
            raise InputError(
                f"{type(model).__name__} is not supported: {what} changes its log-probabilities. Usual cause: {cause}. "
                "Take a model of another family"
            )


def _attempt(model: PreTrainedModel, what: str, function: Callable, *arguments: object) -> list[Tensor]:
    try:
        return function(model, *arguments)
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise
        raise InputError(
            f"{type(model).__name__} is not supported: {what} fails with {type(error).__name__}: {first_line(error)}"
        ) from error


def _alone(model: PreTrainedModel, row: Tensor) -> list[Tensor]:
    return [only_tokens(model, model(input_ids=row[None]).logits[0])]


def _decoded(model: PreTrainedModel, rows: list[Tensor]) -> list[Tensor]:
    """The logits (STEPS, V) of each row after its prompt and after each further token."""
    prompts = [row[:-STEPS] for row in rows]
    steps = []
    # two equal prompts, which are computed once
    with Decoder(model, *_padded([*prompts, prompts[-1]], "left")) as decoder:
        for step in range(STEPS):
            steps.append(decoder.forward()[1])
            decoder.append(torch.stack([row[step - STEPS] for row in (*rows, rows[-1])]))
    return [torch.stack([logits[i] for logits in steps]) for i in range(len(rows))]


def _batched(model: PreTrainedModel, rows: list[Tensor], side: str) -> list[Tensor]:
    """The logits (L, V) of each row at all of its tokens."""
    lengths = [len(row) for row in rows]
    count = sum(lengths)
    states = selected_states(model, *_padded(rows, side), torch.arange(count, device=model.device))
    return list(states.logits(slice(count)).split(lengths))


def _padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    ids, mask = (
        torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_side=side)
        for tensors in (rows, [torch.ones_like(row) for row in rows])
    )
    return ids, mask
