"""The equations of PPO for language models: rewards, advantages and losses as functions of tensors.

Source: InstructGPT (arXiv 2203.02155), equation 2, which is PPO (arXiv 1707.06347) on the reward

    r(x, y) - kl_coef * log(pi(y | x) / pi_SFT(y | x)),    plus    ptx_coef * E[log pi(x)]  on pretraining text.

Shapes: B responses, T tokens of the longest. `mask` (B, T) is True on the tokens of the response, its eos included, and
False on the padding after it. Values outside the mask are ignored.

State and action: `values[:, t]` is the value of the prompt and the first t tokens, before token t is chosen;
`rewards[:, t]` and `logprobs[:, t]` belong to the choice of token t.
"""

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` over the True entries of `mask`, 0 without one. Every token has the same weight. Scalar."""
    return values.where(mask, 0.0).sum() / mask.sum().clamp(min=1)


def kl_penalised_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, kl_coef: float
) -> Tensor:
    """Per-token rewards (B, T): a KL penalty on every token, plus the score on the last token of the response.

    `scores` (B,) are the reward model's scores of whole responses. The rewards of a response add up to its reward in
    InstructGPT's equation 2, because its log-ratio is the sum of the log-ratios of its tokens.
    """
    rewards = (-kl_coef * (logprobs - ref_logprobs)).where(mask, 0.0)
    last = mask.sum(dim=1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates, and returns, the targets of the value model; both (B, T), 0 after the response.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  return_t = A_t + V_t, with V = 0 after the
    last token. Source: arXiv 1506.02438, equation 16.
    """
    rewards, values = rewards.where(mask, 0.0), values.where(mask, 0.0)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        # after the response delta, the next value and the next advantage are 0
        advantages[:, t] = next_advantage = delta + gamma * lam * next_advantage
        next_value = values[:, t]
    return advantages, advantages + values


def rloo(rewards: Tensor, mask: Tensor, num_generations: int) -> Tensor:
    """REINFORCE leave-one-out advantages (B, T), 0 after the response. They need no value model.

    Every token of a response has the same advantage: the return of the response minus the mean return of the other
    responses to its prompt. A return is the sum of a response's rewards. The `num_generations` (at least 2) responses
    to a prompt are consecutive rows. Source: arXiv 2402.14740, section 3.
    """
    returns = rewards.where(mask, 0.0).sum(dim=1).view(-1, num_generations)
    others = (returns.sum(dim=1, keepdim=True) - returns) / (num_generations - 1)
    return (returns - others).view(-1, 1).expand(mask.shape).where(mask, 0.0)


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """`values` (B, T) scaled to unit variance over the mask, and shifted to mean 0 if `shift_mean`; 0 outside.

    The variance is the population variance (division by n).
    """
    count = mask.sum()
    mean = values.where(mask, 0.0).sum() / count
    variance = ((values - mean) ** 2).where(mask, 0.0).sum() / count
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean).where(mask, 0.0)


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, cliprange: float) -> Tensor:
    """PPO's clipped surrogate, negated, as the mean over tokens. Scalar. Source: arXiv 1707.06347, equation 7."""
    ratio = _log_ratio(logprobs, old_logprobs, mask).exp()
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange)
    return masked_mean(-torch.min(ratio * advantages, clipped * advantages), mask)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, cliprange_value: float) -> Tensor:
    """PPO's clipped value loss, as the mean over tokens. Scalar.

    Half the larger of two squared errors: that of `values`, and that of `values` clipped to within `cliprange_value` of
    `old_values`. Source: the PPO of openai/baselines, as in Ziegler et al. (arXiv 1909.08593).
    """
    clipped = torch.clamp(values, old_values - cliprange_value, old_values + cliprange_value)
    return 0.5 * masked_mean(torch.max((values - returns) ** 2, (clipped - returns) ** 2), mask)


def adapted_kl_coef(kl_coef: float, kl: float, target: float, episodes: int, horizon: float) -> float:
    """The new coefficient after `episodes` responses with mean KL `kl`, in nats per response.

    It rises if `kl` is above `target` and falls if below: proportional control with the relative error clipped to 20 %.
    Source: arXiv 1909.08593, section 2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)


def approx_kl(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """KL(old || new) in nats per token, estimated from tokens sampled by the old policy; never negative. Scalar.

    The estimator is (ratio - 1) - log ratio, unbiased and of low variance: http://joschu.net/blog/kl-approx.html (k3).
    """
    log_ratio = _log_ratio(logprobs, old_logprobs, mask)
    return masked_mean(torch.expm1(log_ratio) - log_ratio, mask)


def clip_fraction(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, cliprange: float) -> Tensor:
    """The share of tokens whose probability ratio is outside the clip range. Scalar."""
    ratio = _log_ratio(logprobs, old_logprobs, mask).exp()
    return masked_mean(((ratio - 1).abs() > cliprange).float(), mask)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the mask: 1 for perfect values, 0 for constant ones. Scalar."""
    count = mask.sum()

    def squares(x: Tensor) -> Tensor:
        mean = x.where(mask, 0.0).sum() / count
        return ((x - mean) ** 2).where(mask, 0.0).sum()

    return 1 - squares(returns - values) / squares(returns).clamp(min=1e-8)


def _log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    # masked before exp, because an overflow outside the mask would give a gradient of 0 * inf = NaN
    return (logprobs - old_logprobs).where(mask, 0.0)
