"""The one definition of a log-probability, for rollout, reference, update and evaluation.

It is of the full softmax at the sampling temperature, in fp32, from a forward pass that sees no padding and counts
positions without it. Because all of them share it, the probability ratio is 1 and the KL to the reference 0 before the
first step, to rounding.

Shapes: B sequences of L tokens; N tokens of them without padding; R tokens that are asked for; V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlhf.forward import States, states

# numbers that are held of a softmax at a time: 128 MiB; what is more is done piece by piece, and again backwards
LOGITS = 2**25


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """The log-probability (..., V), in nats, of every token under softmax(logits / temperature)."""
    logits = logits.float()
    return torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """The log-probability (...,), in nats, of `tokens` (...,) under softmax(logits / temperature), logits (..., V)."""
    return log_softmax(logits, temperature).gather(-1, tokens[..., None]).squeeze(-1)


def entropies(log_softmax: Tensor, probabilities: Tensor) -> Tensor:
    """The entropy (...,), in nats, of distributions (..., V) given both as log-probabilities and as probabilities."""
    return -(probabilities * log_softmax.clamp(min=torch.finfo(log_softmax.dtype).min)).sum(dim=-1)


def next_logprobs(states: States, temperature: float) -> Tensor:
    """The log-probability (R,), in nats, of the token after each of the R states that were asked for."""

    def piece(some: slice) -> Tensor:
        return token_logprobs(states.logits(some), states.ids[states.at[some] + 1], temperature)

    asked, vocabulary = len(states.at), states.logits(slice(0)).shape[-1]
    size = max(1, LOGITS // vocabulary)
    if asked <= size:
        return piece(slice(asked))
    pieces = [slice(start, start + size) for start in range(0, asked, size)]
    return torch.cat([checkpoint(piece, some, use_reentrant=False) for some in pieces])


def text_logprobs(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The log-probability (B, L - 1), in nats, of each token of right-padded rows after their first, and its mask."""
    mask, first = attention_mask[:, 1:].bool(), torch.zeros_like(attention_mask[:, :1])
    chosen = numbered(torch.cat([first, attention_mask[:, 1:]], dim=1), attention_mask)
    logprobs = next_logprobs(states(model, input_ids, attention_mask, chosen - 1), temperature)
    return put(logprobs, mask), mask


def numbered(wanted: Tensor, attention_mask: Tensor) -> Tensor:
    """The numbers (R,), among the N tokens of a batch, of those that are `wanted` (B, L)."""
    return wanted[attention_mask.bool()].nonzero().squeeze(1)


def put(values: Tensor, mask: Tensor) -> Tensor:
    """Values (R,), one for each True of `mask` (B, T), where these are; 0 elsewhere."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
