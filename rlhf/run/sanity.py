"""Checks, on the first rollout of PPO and with its models, of equalities that must hold before the first step.

The score can rise in spite of typical bugs: dropout left on, padding that is attended to, a missing temperature, a
score at the wrong token. Each of these bugs breaks one of the equalities.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rlhf import InputError
from rlhf.engine import most, only_tokens, own_share, own_weights, token_logprobs
from rlhf.ppo import masked_mean
from rlhf.rollout import Responses, Rollout, response_logprobs
from rlhf.scoring import reward_model_scores

if TYPE_CHECKING:
    from rlhf.trainer import PPOTrainer

# largest differences attributed to rounding, by mixed precision, in nats per token and in units of the score
TOLERANCE = {"no": 1e-5, "bf16": 0.05, "fp16": 0.01}
SCORE_TOLERANCE = {"no": 1e-4, "bf16": 0.1, "fp16": 0.02}


@dataclass(frozen=True)
class Equality:
    """A measured equality: its name, the message if it fails, the difference, the tolerance, and the usual cause."""

    name: str
    failure: str
    difference: float
    allowed: float
    cause: str


def check_first_rollout(trainer: "PPOTrainer", rollout: Rollout) -> str:
    """The report of `sanity_check` on the first micro-batch. Raises InputError if a check fails.

    The scores of a reward function are not checked, because they may depend on more than the response.
    """
    reward, accelerator = trainer.reward, trainer.accelerator
    is_model = getattr(reward, "func", None) is reward_model_scores
    share = own_share(len(rollout.mask))
    part = rollout.select(slice(0, trainer.micro_batch.rows or share.stop - share.start)).trimmed()
    with accelerator.autocast():
        if is_model and reward is not None and trainer.functions is not None:
            with torch.no_grad():
                part.scores = reward(part)  # without what the functions add
        return sanity_check(
            part,
            policy=accelerator.unwrap_model(trainer.policy),
            reference=trainer.reference,
            reward=reward if is_model else None,
            temperature=trainer.config.temperature,
            precision=accelerator.mixed_precision,
        )


@torch.no_grad()
def sanity_check(
    rollout: Rollout,
    *,
    policy: nn.Module,
    reference: nn.Module,
    reward: Callable[[Responses], Tensor] | None,
    temperature: float,
    precision: str = "no",
) -> str:
    """A line that lists the checks. `reward` is None if scores may depend on more than the response.

    Raises InputError if a check fails, with the difference, the tolerance and the usual cause.
    """
    checks = [
        _ratio_is_one(rollout, policy, temperature, TOLERANCE[precision]),
        *_kl_is_zero(rollout, policy, reference, TOLERANCE[precision]),
        *_padding_is_invisible(rollout, policy, reward, temperature, precision),
    ]
    for check in checks:
        if not check.difference <= check.allowed:  # also raises for NaN
            raise InputError(
                f"before the first step, {check.failure} by {check.difference:.1e} (allowed: {check.allowed:.0e}). "
                f"Usual cause: {check.cause}"
            )
    names = ", ".join(check.name for check in checks)
    return f"checks passed: {names} (largest difference {max(c.difference for c in checks):.0e})"


def _ratio_is_one(rollout: Rollout, policy: nn.Module, temperature: float, allowed: float) -> Equality:
    logprobs, _ = response_logprobs(policy, rollout, temperature)
    return Equality(
        "ratio = 1",
        "the log-probabilities of the update differ from those of sampling",
        _mean_difference(logprobs, rollout.logprobs, rollout.mask),
        allowed,
        "dropout that is on, a model that ignores attention_mask or position_ids or sees other rows of its batch, a cache "
        "of keys and values that changes the model's output, top-k, top-p or another temperature",
    )


def _kl_is_zero(rollout: Rollout, policy: nn.Module, reference: nn.Module, allowed: float) -> Iterator[Equality]:
    """Yields the check only if policy and reference have the same weights."""
    if _same_weights(policy, reference):
        yield Equality(
            "KL to the reference = 0",
            "policy and reference are the same model, but their log-probabilities differ",
            _mean_difference(rollout.logprobs, rollout.ref_logprobs, rollout.mask),
            allowed,
            "one of them has dropout on or runs in another precision",
        )


def _padding_is_invisible(
    rollout: Rollout,
    policy: nn.Module,
    reward: Callable[[Responses], Tensor] | None,
    temperature: float,
    precision: str,
) -> Iterator[Equality]:
    shortest = rollout.attention_mask.sum(dim=1).argmin()  # the row with the most padding
    alone = rollout.select(shortest[None]).trimmed()
    yield Equality(
        "padding changes no log-probability",
        "the log-probabilities of a padded batch differ from those of the same response alone",
        _mean_difference(_plain_logprobs(policy, alone, temperature), alone.logprobs, alone.mask),
        TOLERANCE[precision],
        "a model that ignores attention_mask or position_ids, or that sees other rows of its batch",
    )
    if reward is not None:
        yield Equality(
            "padding changes no score",
            "the reward model's score of a response depends on the rows beside it: it differs",
            float((reward(alone) - alone.scores).abs().max()),
            SCORE_TOLERANCE[precision],
            "a reward model that ignores attention_mask or position_ids",
        )


def _plain_logprobs(policy: nn.Module, alone: Responses, temperature: float) -> Tensor:
    """Log-probabilities (1, T) of one response from transformers' plain forward pass, without padding."""
    ids, length = alone.input_ids[alone.attention_mask.bool()][None], int(alone.lengths)
    logits = policy(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return token_logprobs(only_tokens(policy, logits[:, -length - 1 : -1]), ids[:, -length:], temperature)


def _mean_difference(one: Tensor, other: Tensor, mask: Tensor) -> float:
    return float(masked_mean((one - other).abs(), mask))


def _same_weights(policy: nn.Module, reference: nn.Module) -> bool:
    """Whether the weights are equal after rounding the policy's to the precision of the reference's.

    All processes must call it.
    """
    models = (policy, reference)
    own, other = ({name.replace(".base_layer.", "."): p for name, p in own_weights(m).items()} for m in models)
    # an adapter that the reference lacks adds nothing while its second matrix is 0
    added = {name: own.pop(name) for name in own.keys() - other.keys()}
    same = own.keys() == other.keys() and not any(p.any() for name, p in added.items() if ".lora_A." not in name)
    same = same and all(
        p.shape == other[n].shape and torch.equal(p.to(other[n].dtype), other[n]) for n, p in own.items()
    )
    return not most(int(not same))
