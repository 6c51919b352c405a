"""The one definition of a log-probability, for rollout, reference, update and evaluation.

It is of the full softmax at the sampling temperature, in fp32, from a forward pass that masks padding out and counts
positions without it. Because all of them share it, the probability ratio is 1 and the KL to the reference 0 before the
first step, to rounding.

Shapes: B sequences of L tokens, of which the last T are the response; V vocabulary.
"""

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from rlhf.models import last_logits, with_positions


def forward(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, length: int, **kwargs) -> ModelOutput:
    """The model's output, with logits at least where the last `length` tokens of each row (B, L) are chosen."""
    inputs = {**with_positions(model, attention_mask), **last_logits(model, length + 1)}
    return model(input_ids=input_ids, use_cache=False, **inputs, **kwargs)


def before(outputs: Tensor, length: int) -> Tensor:
    """Of outputs (B, L, ...), those of the state before each of the last `length` tokens, in which it is chosen."""
    return outputs[:, -length - 1 : -1]


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """The log-probability (B, T), in nats, of `tokens` under softmax(logits / temperature), logits being (B, T, V)."""
    return torch.log_softmax(logits.float() / temperature, dim=-1).gather(2, tokens[:, :, None]).squeeze(2)


def token_entropies(logits: Tensor, temperature: float) -> Tensor:
    """The entropy (B, T), in nats, of softmax(logits / temperature)."""
    log_softmax = torch.log_softmax(logits.float() / temperature, dim=-1)
    return -(log_softmax.exp() * log_softmax).sum(dim=-1)


def text_logprobs(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The log-probability (B, L - 1), in nats, of each token of right-padded rows after their first, and its mask."""
    length = input_ids.shape[1] - 1
    logits = before(forward(model, input_ids, attention_mask, length).logits, length)
    return token_logprobs(logits, input_ids[:, 1:], temperature), attention_mask[:, 1:].bool()
