"""What stops a PPO run whose numbers go wrong, before it spoils what was good."""

import math

from torch import Tensor

from rlhf.config import PPOConfig
from rlhf.errors import InputError
from rlhf.rollout import Rollout


class Diverged(InputError):
    """Numbers that went wrong. `rollout` is the batch that did it."""

    def __init__(self, step: int, what: str, cause: str, rollout: Rollout):
        super().__init__(f"stopped in step {step}: {what}. Usual cause: {cause}")
        self.step, self.rollout = step, rollout


def check_rollout(step: int, rollout: Rollout) -> None:
    """Raises Diverged if a score or a log-probability is not finite."""
    if bad := _not_finite(rollout.scores):
        cause = "a reward function that returns None or divides by 0, or a reward model trained at too high a rate"
        raise Diverged(step, f"{bad} of {len(rollout.scores)} scores are not finite", cause, rollout)
    for name in ("logprobs", "ref_logprobs", "values"):
        if bad := _not_finite(getattr(rollout, name)[rollout.mask]):
            cause = "learning_rate or value_learning_rate too high in the steps before, or a damaged model"
            raise Diverged(step, f"{bad} of the {name} are not finite", cause, rollout)


def check_update(step: int, norms: Tensor, batch: Rollout) -> None:
    """Raises Diverged if the norm of a gradient is not finite."""
    if _not_finite(norms):
        numbers = " and ".join(f"{norm:.3g}" for norm in norms.tolist())
        cause = "learning_rate too high, or a reward without bounds; --skip_nonfinite leaves such updates out"
        raise Diverged(step, f"the norms of the gradients of policy and value model are {numbers}", cause, batch)


def check_metrics(step: int, metrics: dict[str, float], config: PPOConfig, rollout: Rollout) -> None:
    """Raises Diverged if the policy has gone too far from the reference, or no longer explores."""
    if metrics["kl"] > (math.inf if config.max_kl is None else config.max_kl):
        cause = "kl_coef too low or learning_rate too high: the policy lives where the reward model was never trained"
        what = f"the KL to the reference is {metrics['kl']:.1f} nats a response (max_kl {config.max_kl:g})"
        raise Diverged(step, what, cause, rollout)
    if metrics["entropy"] < (config.min_entropy or 0.0):
        cause = "learning_rate too high or kl_coef too low: the policy says the same whatever it is asked"
        what = f"the entropy is {metrics['entropy']:.2g} nats a token (min_entropy {config.min_entropy:g})"
        raise Diverged(step, what, cause, rollout)


def _not_finite(numbers: Tensor) -> int:
    return int((~numbers.isfinite()).sum())
