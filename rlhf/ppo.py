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
    returns = _returns(rewards, mask).view(-1, num_generations)
    others = (returns.sum(dim=1, keepdim=True) - returns) / (num_generations - 1)
    return _of_tokens(returns - others, mask)


def grpo(rewards: Tensor, mask: Tensor, num_generations: int) -> Tensor:
    """Group-relative advantages (B, T), 0 after the response: returns standardised over the responses to a prompt.

    Rows and returns as in `rloo`. The standard deviation is that of a sample (division by n - 1), plus 1e-4, as in TRL.
    Source: arXiv 2402.03300, section 4.1.2.
    """
    returns = _returns(rewards, mask).view(-1, num_generations)
    centred = returns - returns.mean(dim=1, keepdim=True)
    return _of_tokens(centred / (returns.std(dim=1, keepdim=True) + 1e-4), mask)


def dr_grpo(rewards: Tensor, mask: Tensor, num_generations: int) -> Tensor:
    """The same without the division by the standard deviation, which gives prompts of little variance more weight.

    Source: arXiv 2503.20783, section 3.2.
    """
    returns = _returns(rewards, mask).view(-1, num_generations)
    return _of_tokens(returns - returns.mean(dim=1, keepdim=True), mask)


# those that compare the responses to a prompt, and need no value model
GROUP_ESTIMATORS = {"rloo": rloo, "grpo": grpo, "dr_grpo": dr_grpo}


def reinforce(rewards: Tensor, mask: Tensor, baseline: float | None) -> Tensor:
    """Returns minus a baseline, (B, T), 0 after the response; returns as in `rloo`.

    The baseline is the running mean return of earlier batches; None, of the first batch, is the batch's own mean.
    Source: Williams, Machine Learning 8 (1992), 229-256, there as "reinforcement comparison".
    """
    returns = _returns(rewards, mask)
    return _of_tokens(returns - (returns.mean() if baseline is None else baseline), mask)


def running_mean(mean: float | None, number: float, decay: float) -> float:
    """The exponential moving average after one more number; without a `mean`, that number."""
    return number if mean is None else decay * mean + (1 - decay) * number


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """`values` (B, T) scaled to unit variance over the mask, and shifted to mean 0 if `shift_mean`; 0 outside.

    The variance is the population variance (division by n).
    """
    count = mask.sum()
    mean = values.where(mask, 0.0).sum() / count
    variance = ((values - mean) ** 2).where(mask, 0.0).sum() / count
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean).where(mask, 0.0)


def ppo_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, cliprange: float, cliprange_high: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate, negated, and the ratio r that it clips; both (B, T), of each token.

    -min(r A, clip(r, 1 - cliprange, 1 + cliprange_high) A) with r = pi / pi_old. Source: arXiv 1707.06347, equation 7;
    with a higher upper bound arXiv 2503.14476 (DAPO), section 3.1.
    """
    ratio = _log_ratio(logprobs, old_logprobs, mask).exp()
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange_high)
    return -torch.min(ratio * advantages, clipped * advantages), ratio


def gspo_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, cliprange: float, cliprange_high: float
) -> tuple[Tensor, Tensor]:
    """The same with the ratio of the whole response, pi(y|x) / pi_old(y|x), to the power 1 / |y|; both (B, T).

    Every token has the value of that ratio and the gradient of its own log-probability, so its advantage may differ
    from those of the others. Source: arXiv 2507.18071, section 4.3 (GSPO-token). With equal advantages that is GSPO.
    """
    log_ratio = _log_ratio(logprobs, old_logprobs, mask)
    of_response = log_ratio.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    log_ratio = of_response.detach() + (log_ratio - log_ratio.detach())
    return ppo_loss(log_ratio, torch.zeros_like(log_ratio), advantages, mask, cliprange, cliprange_high)


def cispo_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, cliprange: float, cliprange_high: float
) -> tuple[Tensor, Tensor]:
    """-clip(r, 1 - cliprange, 1 + cliprange_high) A log pi, and r = pi / pi_old; both (B, T), of each token.

    The clipped ratio is a constant weight, so that a token outside the clip range keeps its gradient. Source: arXiv
    2506.13585, equations 4 and 5.
    """
    ratio = _log_ratio(logprobs, old_logprobs, mask).exp()
    weight = ratio.detach().clamp(1 - cliprange, 1 + cliprange_high)
    return -weight * advantages * logprobs.where(mask, 0.0), ratio


LOSSES = {"ppo": ppo_loss, "gspo": gspo_loss, "cispo": cispo_loss}


def aggregate(losses: Tensor, mask: Tensor, aggregation: str, length: int) -> Tensor:
    """One number of the losses (B, T) of tokens. Scalar.

    tokens: the mean over tokens. responses: the mean over responses of the mean over their tokens (GRPO, arXiv
    2402.03300, equation 3). constant: the sum over tokens, divided by B * length (Dr. GRPO, arXiv 2503.20783).
    """
    if aggregation == "tokens":
        return masked_mean(losses, mask)
    sums, counts = losses.where(mask, 0.0).sum(dim=1), mask.sum(dim=1)
    if aggregation == "constant":
        return sums.mean() / length
    return masked_mean(sums / counts.clamp(min=1), counts > 0)


def aggregated_count(mask: Tensor, aggregation: str) -> Tensor:
    """The tokens, the responses with a token in the mask, or the rows that `aggregate` averages over. Scalar.

    The mean of `aggregate` over micro-batches, weighted by this number, is that of the whole batch.
    """
    units = {"tokens": mask, "responses": mask.any(dim=1), "constant": mask.new_ones(len(mask))}
    return units[aggregation].sum()


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


def clip_fraction(ratio: Tensor, mask: Tensor, cliprange: float, cliprange_high: float) -> Tensor:
    """The share of tokens whose ratio is outside the clip range. Scalar."""
    return masked_mean(((ratio - 1 > cliprange_high) | (1 - ratio > cliprange)).float(), mask)


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


def _returns(rewards: Tensor, mask: Tensor) -> Tensor:
    """The sum of the rewards of each response, (B,)."""
    return rewards.where(mask, 0.0).sum(dim=1)


def _of_tokens(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages of responses, B in any shape, for each of their tokens, (B, T)."""
    return advantages.view(-1, 1).expand(mask.shape).where(mask, 0.0)
