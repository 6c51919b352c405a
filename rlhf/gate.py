"""What must hold before the first step of any PPO run, measured on its first rollout with its own models.

Most mistakes of PPO on language (dropout that is on, padding that is seen, a temperature that is forgotten, a score at
the wrong token) let the score rise all the same. Each of them breaks one of these equalities.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf.errors import InputError
from rlhf.logprobs import token_logprobs
from rlhf.ppo import masked_mean
from rlhf.rollout import Responses, Rollout, response_logprobs

# what is put down to rounding, by Accelerate's mixed precision: nats a token, and units of the score
TOLERANCE = {"no": 1e-5, "bf16": 0.05, "fp16": 0.01}
SCORE_TOLERANCE = {"no": 1e-4, "bf16": 0.1, "fp16": 0.02}


@dataclass(frozen=True)
class Equality:
    """Something that must hold, how far off it is, and why that usually happens."""

    holds: str
    fails: str
    off: float
    allowed: float
    cause: str


@torch.no_grad()
def gate(
    rollout: Rollout,
    *,
    policy: nn.Module,
    reference: nn.Module,
    reward: Callable[[Responses], Tensor] | None,
    temperature: float,
    precision: str = "no",
) -> str:
    """A line that says what holds. `reward` is None where scores may depend on more than the response.

    Raises InputError with what differs, by how much, and the usual cause.
    """
    checked: list[Equality] = []
    for equality in _equalities(rollout, policy, reference, reward, temperature, precision):
        if not equality.off <= equality.allowed:
            raise InputError(
                f"before the first step, {equality.fails} by {equality.off:.1e} (allowed: {equality.allowed:.0e}). "
                f"Usual cause: {equality.cause}"
            )
        checked.append(equality)
    return f"{', '.join(e.holds for e in checked)}: off by {max(e.off for e in checked):.0e} at most"


def _equalities(rollout, policy, reference, reward, temperature, precision) -> Iterator[Equality]:
    allowed = TOLERANCE[precision]
    logprobs, _ = response_logprobs(policy, rollout, temperature)
    yield Equality(
        "ratio = 1",
        "the policy disagrees with itself: log-probabilities of the update and of sampling differ",
        _mean_difference(logprobs, rollout.logprobs, rollout.mask),
        allowed,
        "dropout that is on, a model that ignores attention_mask or position_ids or sees other rows of its batch, a cache "
        "of keys and values that does not continue as the model would without, top-k, top-p or another temperature",
    )
    if _same_weights(policy, reference):
        yield Equality(
            "KL to the reference = 0",
            "policy and reference are the same model, but their log-probabilities differ",
            _mean_difference(rollout.logprobs, rollout.ref_logprobs, rollout.mask),
            allowed,
            "one of them has dropout on or runs in another precision",
        )
    shortest = rollout.attention_mask.sum(dim=1).argmin()  # the row with the most padding
    alone = rollout.select(shortest[None]).trimmed()
    yield Equality(
        "log-probabilities as without padding",
        "log-probabilities of a padded batch differ from those of the same response alone",
        _mean_difference(_plain_logprobs(policy, alone, temperature), alone.logprobs, alone.mask),
        allowed,
        "a model that ignores attention_mask or position_ids, or that sees other rows of its batch",
    )
    if reward is not None:
        yield Equality(
            "scores as without a batch",
            "the reward model's score of a response depends on the rows beside it: it differs",
            float((reward(alone) - alone.scores).abs().max()),
            SCORE_TOLERANCE[precision],
            "a reward model that ignores attention_mask or position_ids",
        )


def _plain_logprobs(policy: nn.Module, alone: Responses, temperature: float) -> Tensor:
    """Log-probabilities (1, T) of one response, from the model as its library calls it: no padding, nothing left out."""
    ids, length = alone.input_ids[alone.attention_mask.bool()][None], int(alone.lengths)
    logits = policy(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return token_logprobs(logits[:, -length - 1 : -1], ids[:, -length:], temperature)


def _mean_difference(one: Tensor, other: Tensor, mask: Tensor) -> float:
    return float(masked_mean((one - other).abs(), mask))


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether they are, in the precision in which the other's are kept."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(a.shape == b.shape and torch.equal(a.to(b.dtype), b) for a, b in pairs)
