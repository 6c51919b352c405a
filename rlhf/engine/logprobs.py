"""The one definition of a log-probability, for rollout, reference, update and evaluation.

A log-probability is taken from the full softmax at the sampling temperature, in fp32, with position ids that skip
padding. Every pass uses this definition, so before the first step the probability ratio is 1 and the KL to the
reference is 0, up to rounding.

Shapes: B rows of L tokens; N tokens without padding, row after row; S selected ones of these; V vocabulary size.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlhf.engine.forward import SelectedStates, selected_states

# logits in memory at once, 128 MiB; more are computed in pieces, and recomputed in the backward pass
MAX_LOGITS = 2**25


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """The log-probability (..., V), in nats, of every token under softmax(logits / temperature)."""
    logits = logits.float()
    return torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """The log-probability (...,), in nats, of `tokens` (...,) under softmax(logits / temperature), logits (..., V)."""
    return log_softmax(logits, temperature).gather(-1, tokens[..., None]).squeeze(-1)


def entropy(log_probabilities: Tensor, probabilities: Tensor) -> Tensor:
    """The entropy (...,), in nats, of distributions (..., V), from their log-probabilities and their probabilities."""
    finite = log_probabilities.clamp(min=torch.finfo(log_probabilities.dtype).min)  # 0 * -inf would be NaN
    return -(probabilities * finite).sum(dim=-1)


def next_token_logprobs(states: SelectedStates, temperature: float) -> Tensor:
    """The log-probability (S,), in nats, of the token after each selected token."""

    def piece(part: slice) -> Tensor:
        return token_logprobs(states.logits(part), states.ids[states.index[part] + 1], temperature)

    count, vocabulary = len(states.index), states.logits(slice(0)).shape[-1]
    size = max(1, MAX_LOGITS // vocabulary)
    if count <= size:
        return piece(slice(count))
    pieces = [slice(start, start + size) for start in range(0, count, size)]
    return torch.cat([checkpoint(piece, part, use_reentrant=False) for part in pieces])


def text_logprobs(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The log-probabilities (B, L - 1), in nats, of all tokens but the first of right-padded rows, and their mask."""
    mask, first = attention_mask[:, 1:].bool(), torch.zeros_like(attention_mask[:, :1])
    index = packed_index(torch.cat([first, attention_mask[:, 1:]], dim=1), attention_mask)
    logprobs = next_token_logprobs(selected_states(model, input_ids, attention_mask, index - 1), temperature)
    return scatter_packed(logprobs, mask), mask


def packed_index(selected: Tensor, attention_mask: Tensor) -> Tensor:
    """The positions (S,), among the N tokens of a batch, of the tokens where `selected` (B, L) is True."""
    return selected[attention_mask.bool()].nonzero().squeeze(1)


def scatter_packed(values: Tensor, mask: Tensor) -> Tensor:
    """A tensor (B, T) with `values` (S,) at the True entries of `mask` (B, T), row after row, and 0 elsewhere."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
