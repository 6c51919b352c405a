"""The gradient of PPO-ptx is that of InstructGPT's objective, and each of its parts moves the solution."""

import pytest
import torch

from tests.optimum import EOS, PROMPTS, RESPONSES, World, log_distribution, objective, text_loss

TEXT = [[2, 3, 3, 2], [3, 3, 2, 0], [1, 2, 2, 2], [2, 3, 2, 2]]


def expected_gradient(world: World, policy, reference, kl_coef: float, ptx_coef: float) -> torch.Tensor:
    """The gradient of the whole objective, by enumeration and autograd, with the weights of the trainer.

    PPO's part is a mean over tokens of whitened advantages: the gradient of the objective divided by the mean length and
    the standard deviation of the advantages. With values of 0 and lambda 1, a token's advantage is the sum of its own and
    all later rewards.
    """
    log_pi, log_ref = log_distribution(policy), log_distribution(reference)
    gain = objective(log_pi, log_ref, world.rewards, kl_coef)
    lengths = torch.tensor([float(len(response)) for response in RESPONSES])
    with torch.no_grad():
        weights, advantages = [], []
        for p in range(len(log_pi)):
            for y, response in enumerate(RESPONSES):
                # the log-ratio of token t: that of the first t + 1 tokens minus that of the first t
                prefixes = [prefix_log_ratio(policy, reference, p, response[: t + 1]) for t in range(len(response))]
                ratios = [b - a for a, b in zip([0.0, *prefixes[:-1]], prefixes, strict=True)]
                for t in range(len(response)):
                    advantages.append(world.rewards[p, y] - kl_coef * sum(ratios[t:]))
                    weights.append(log_pi[p, y].exp())
        weights, advantages = torch.stack(weights), torch.stack(advantages)
        weights = weights / weights.sum()
        mean = (weights * advantages).sum()
        deviation = (weights * (advantages - mean) ** 2).sum().sqrt()
        mean_length = (log_pi.exp() * lengths).sum(dim=1).mean()
    loss = -gain / (mean_length * deviation) + ptx_coef * text_loss(policy, TEXT)
    return flat(torch.autograd.grad(loss, list(policy.parameters())))


def prefix_log_ratio(policy, reference, prompt: int, tokens: tuple[int, ...]) -> torch.Tensor:
    """The log-ratio of policy and reference for the first tokens of a response. Scalar."""
    ids, start = torch.tensor([[*PROMPTS[prompt], *tokens]]), len(PROMPTS[prompt])
    logprobs = [
        m(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, start - 1 : -1].log_softmax(-1)
        for m in (policy, reference)
    ]
    index = torch.arange(len(tokens)), torch.tensor(tokens)
    return (logprobs[0][index] - logprobs[1][index]).sum()


def flat(gradients) -> torch.Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("ptx_coef", [0.0, 0.3])
def test_the_expected_update_is_the_gradient_of_the_objective(ptx_coef):
    """The reference is not the policy, so the KL term has a gradient. Learning rates are 0, so the policy stays."""
    world = World.of_seed(0)
    trainer = world.trainer(
        kl_coef=0.5, ptx_coef=ptx_coef, text=TEXT, ptx_batch_size=len(TEXT), learning_rate=0.0, value_learning_rate=0.0,
        num_ppo_epochs=1, num_mini_batches=1, batch_size=8192, total_episodes=8192 * 2, value_warmup_steps=0, max_grad_norm=1e9,
    )  # fmt: skip
    with torch.no_grad():
        trainer.value_model.model.score.weight.zero_()
        torch.manual_seed(5)
        for parameter in trainer.reference.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) * parameter.std())
    gradients, step = [], trainer.optimizer.step

    def record():
        gradients.append(flat(p.grad for p in trainer.policy.parameters()))
        step()

    trainer.optimizer.step = record
    list(trainer.train())
    mean = torch.stack(gradients).mean(dim=0)
    exact = expected_gradient(world, trainer.policy, trainer.reference, 0.5, ptx_coef)
    assert torch.cosine_similarity(mean, exact, dim=0) > 0.99
    assert float(mean.norm() / exact.norm()) == pytest.approx(1, abs=0.05)


def test_a_larger_ptx_coef_gives_a_lower_loss_on_pretraining_text():
    losses = []
    for ptx_coef in (0.0, 0.1, 1.0):
        world = World.of_seed(0)
        trainer = world.trainer(kl_coef=0.5, ptx_coef=ptx_coef, text=TEXT, ptx_batch_size=4, total_episodes=128 * 50)
        list(trainer.train())
        with torch.no_grad():
            losses.append(float(text_loss(trainer.policy, TEXT)))
    assert losses[0] > losses[1] + 0.05 > losses[2] + 0.1


def test_the_penalty_for_a_missing_eos_makes_eos_more_likely():
    world = World.of_seed(1)
    finished = torch.tensor([response[-1] == EOS for response in RESPONSES])
    shares = []
    for penalty in (0.0, 2.0):
        trainer = world.trainer(kl_coef=0.5, missing_eos_penalty=penalty, total_episodes=128 * 50)
        list(trainer.train())
        with torch.no_grad():
            shares.append(float(log_distribution(trainer.policy).exp()[:, finished].sum(dim=1).mean()))
    assert shares[1] > shares[0] + 0.2
