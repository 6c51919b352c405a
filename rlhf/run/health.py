"""Stops a PPO run that diverges, before it overwrites a good model, and warns of biased updates."""

import math

from torch import Tensor

from rlhf import InputError
from rlhf.config import PPOConfig
from rlhf.rollout import Rollout

# largest log of the ratio's percentiles without a warning, in nats, by mixed precision
LARGEST_MISMATCH = {"no": 0.001, "bf16": 0.3, "fp16": 0.1}


class Diverged(InputError):
    """The run diverged in `step`. `rollout` is the batch of that step."""

    def __init__(self, step: int, problem: str, cause: str, rollout: Rollout):
        super().__init__(f"stopped in step {step}: {problem}. Usual cause: {cause}")
        self.step, self.rollout = step, rollout


def check_rollout(step: int, rollout: Rollout) -> None:
    """Raises Diverged if a score, a log-probability or a value is not finite."""
    if count := _not_finite(rollout.scores):
        cause = "a reward function that returns None or divides by 0, or a reward model that diverged in training"
        raise Diverged(step, f"{count} of {len(rollout.scores)} scores are not finite", cause, rollout)
    for name in ("logprobs", "ref_logprobs", "values"):
        if count := _not_finite(getattr(rollout, name)[rollout.mask]):
            cause = "learning_rate or value_learning_rate too high, or a damaged model"
            raise Diverged(step, f"{count} of the {name} are not finite", cause, rollout)


def check_update(step: int, norms: Tensor, batch: Rollout) -> None:
    """Raises Diverged if a gradient norm is not finite."""
    if _not_finite(norms):
        numbers = " and ".join(f"{norm:.3g}" for norm in norms.tolist())
        cause = "learning_rate too high, or unbounded rewards; --skip_nonfinite skips such updates"
        raise Diverged(step, f"the norms of the gradients of policy and value model are {numbers}", cause, batch)


def check_metrics(step: int, metrics: dict[str, float], config: PPOConfig, rollout: Rollout) -> None:
    """Raises Diverged if the KL to the reference is too high, or the entropy too low."""
    if metrics["kl"] > (math.inf if config.max_kl is None else config.max_kl):
        cause = "kl_coef too low or learning_rate too high: the reward model was never trained on such responses"
        problem = f"the KL to the reference is {metrics['kl']:.1f} nats per response (max_kl {config.max_kl:g})"
        raise Diverged(step, problem, cause, rollout)
    if metrics["entropy"] < (config.min_entropy or 0.0):
        cause = "learning_rate too high or kl_coef too low: the policy gives the same response to every prompt"
        problem = f"the entropy is {metrics['entropy']:.2g} nats per token (min_entropy {config.min_entropy:g})"
        raise Diverged(step, problem, cause, rollout)


def mismatch_warning(metrics: dict[str, float], precision: str) -> str:
    """A warning if the policy that sampled gives its tokens other log-probabilities in the update; "" if it does not."""
    low, high = metrics.get("ratio_p01", 1.0), metrics.get("ratio_p99", 1.0)
    bound = math.exp(LARGEST_MISMATCH[precision])
    if 1 / bound <= low and high <= bound:
        return ""
    name = {"no": "fp32"}.get(precision, precision)
    remedy = " Without mixed precision it is smaller." if precision != "no" else ""
    return (
        f"warning: before any update of this step, 98 % of the probability ratios are from {low:.3g} to {high:.3g}; in "
        f"{name} they should be from {1 / bound:.3g} to {bound:.3g}. The update computes other log-probabilities than "
        f"sampling, so its gradient is biased. Usual cause: rounding, in a model with large logits.{remedy}"
    )


def _not_finite(numbers: Tensor) -> int:
    return int((~numbers.isfinite()).sum())
