"""PPO must find the optimum that is known in closed form, and its gradient must be that of InstructGPT's objective."""

import pytest
import torch

from tests.optimum import EOS, KL_COEFS, PROMPTS, RESPONSES, World, kl, log_distribution, objective, optimum, text_loss

TEXT = [[2, 3, 3, 2], [3, 3, 2, 0], [1, 2, 2, 2], [2, 3, 2, 2]]


RLOO = {"advantage_estimator": "rloo", "num_generations": 4}


@pytest.mark.parametrize(
    "seed, kl_coef, options",
    [
        *((seed, kl_coef, {}) for seed in (0, 1, 2) for kl_coef in KL_COEFS),
        *((0, kl_coef, RLOO) for kl_coef in KL_COEFS),
    ],
)
def test_ppo_arrives_at_the_optimum_of_the_kl_penalised_objective(seed, kl_coef, options):
    """Less than 1 % of the way is left, of that from the SFT model's objective to the highest; and so of the highest."""
    world = World.of_seed(seed)
    trainer = world.trainer(kl_coef=kl_coef, **options)
    list(trainer.train())
    with torch.no_grad():
        log_ref, log_pi = log_distribution(trainer.reference), log_distribution(trainer.policy)
    best, highest = optimum(log_ref, world.rewards, kl_coef)
    assert kl(best, log_ref) > 0.05  # there was a way to go
    assert kl(log_pi, best) < 0.01
    reached, start = (objective(log_p, log_ref, world.rewards, kl_coef) for log_p in (log_pi, log_ref))
    assert (highest - reached) / (highest - start) < 0.01


def test_every_response_is_listed_once_and_their_probabilities_sum_to_one():
    assert len(RESPONSES) == len(set(RESPONSES)) == 1 + 3 + 3 * 3 * 4
    with torch.no_grad():
        torch.testing.assert_close(log_distribution(World.of_seed(0).policy()).exp().sum(dim=1), torch.ones(3))


def expected_gradient(world: World, policy, reference, kl_coef: float, ptx_coef: float) -> torch.Tensor:
    """The gradient of the whole objective by enumeration and autograd, each part weighed as the trainer says it does.

    PPO's part is the mean over tokens of whitened advantages: the objective's gradient divided by the mean length and
    by the deviation of the advantages. With a value of 0 and lambda 1 a token's advantage is what is yet to come.
    """
    log_pi, log_ref = log_distribution(policy), log_distribution(reference)
    gain = objective(log_pi, log_ref, world.rewards, kl_coef)
    lengths = torch.tensor([float(len(response)) for response in RESPONSES])
    with torch.no_grad():
        weights, advantages = [], []
        for p in range(len(log_pi)):
            for y, response in enumerate(RESPONSES):
                # of the log-ratio, what belongs to token t is what t + 1 tokens have more than t
                beginnings = [prefix_log_ratio(policy, reference, p, response[: t + 1]) for t in range(len(response))]
                ratios = [b - a for a, b in zip([0.0, *beginnings[:-1]], beginnings, strict=True)]
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
    ids, start = torch.tensor([[*PROMPTS[prompt], *tokens]]), len(PROMPTS[prompt])
    logprobs = [
        m(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, start - 1 : -1].log_softmax(-1)
        for m in (policy, reference)
    ]
    chosen = torch.arange(len(tokens)), torch.tensor(tokens)
    return (logprobs[0][chosen] - logprobs[1][chosen]).sum()


def flat(gradients) -> torch.Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("ptx_coef", [0.0, 0.3])
def test_expected_update_is_the_gradient_of_the_whole_objective(ptx_coef):
    """The policy is not the reference here, so that the KL term has a gradient, and learns nothing, so that it stays."""
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
    summed, step = [], trainer.optimizer.step

    def look():
        summed.append(flat(p.grad for p in trainer.policy.parameters()))
        step()

    trainer.optimizer.step = look
    list(trainer.train())
    ours = torch.stack(summed).mean(dim=0)
    exact = expected_gradient(world, trainer.policy, trainer.reference, 0.5, ptx_coef)
    assert torch.cosine_similarity(ours, exact, dim=0) > 0.99
    assert float(ours.norm() / exact.norm()) == pytest.approx(1, abs=0.05)


def test_the_solution_moves_toward_the_pretraining_text_as_gamma_grows():
    losses = []
    for ptx_coef in (0.0, 0.1, 1.0):
        world = World.of_seed(0)
        trainer = world.trainer(kl_coef=0.5, ptx_coef=ptx_coef, text=TEXT, ptx_batch_size=4, total_episodes=128 * 50)
        list(trainer.train())
        with torch.no_grad():
            losses.append(float(text_loss(trainer.policy, TEXT)))
    assert losses[0] > losses[1] + 0.05 > losses[2] + 0.1


def test_the_penalty_for_a_missing_eos_makes_ending_likelier():
    world = World.of_seed(1)
    ended = torch.tensor([response[-1] == EOS for response in RESPONSES])
    shares = []
    for penalty in (0.0, 2.0):
        trainer = world.trainer(kl_coef=0.5, missing_eos_penalty=penalty, total_episodes=128 * 50)
        list(trainer.train())
        with torch.no_grad():
            shares.append(float(log_distribution(trainer.policy).exp()[:, ended].sum(dim=1).mean()))
    assert shares[1] > shares[0] + 0.2
