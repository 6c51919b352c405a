"""The losses of the policy agree with calculations by hand, their papers' gradients, and TRL's GRPOTrainer."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf import ppo
from tests.test_ppo import T, batches, masks

LOW, HIGH = 0.2, 0.3
AGGREGATIONS = ("tokens", "responses", "constant")


def loss_and_gradient(name, logprobs, old, advantages, mask, aggregation="tokens", cliprange=(LOW, HIGH), length=8):
    """The aggregated loss, and its gradient (B, T) in the log-probabilities."""
    logprobs = logprobs.detach().clone().requires_grad_()
    losses, _ = ppo.LOSSES[name](logprobs, old, advantages, mask, *cliprange)
    loss = ppo.aggregate(losses, mask, aggregation, length)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.detach(), gradient


def random_batch(seed=0, spread=0.3):
    """Log-probabilities, old ones, advantages that are equal in a response, and the mask, of five responses."""
    generator = torch.Generator().manual_seed(seed)
    mask = masks([4, 1, 6, 3, 2], 6)
    old = -torch.rand(mask.shape, generator=generator)
    new = old + spread * torch.randn(mask.shape, generator=generator)
    advantages = torch.randn(len(mask), 1, generator=generator).expand(mask.shape)
    return new, old, advantages, mask


# --- gspo -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "logs, advantage, expected",
    [
        # the mean log-ratio counts: the ratio of the response is the geometric mean of those of its tokens
        ([0.4, -0.2], 2.0, -2.0 * math.exp(0.1)),  # not clipped, although a token's ratio is 1.49
        ([0.6, 0.2], 2.0, -2.0 * 1.3),  # exp(0.4) is above 1.3: clipped
        ([0.6, 0.2], -2.0, 2.0 * math.exp(0.4)),
        ([-0.6, -0.2], -2.0, 2.0 * 0.8),  # exp(-0.4) is below 0.8: clipped
    ],
)
def test_gspo_clips_the_geometric_mean_of_the_ratios_of_a_response(logs, advantage, expected):
    loss, _ = loss_and_gradient("gspo", T([logs]), torch.zeros(1, 2), T([[advantage] * 2]), masks([2], 2))
    assert float(loss) == pytest.approx(expected)


def test_the_gradient_of_gspo_is_that_of_its_objective():
    """Autograd through the ratio of the whole response, one response after another."""
    new, old, advantages, mask = random_batch()
    leaf, expected = new.clone().requires_grad_(), 0.0
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        ratio = ((leaf[row, :length] - old[row, :length]).sum() / length).exp()
        advantage = advantages[row, 0]
        expected = expected - torch.min(ratio * advantage, ratio.clamp(1 - LOW, 1 + HIGH) * advantage) / len(mask)
    loss, gradient = loss_and_gradient("gspo", new, old, advantages, mask, "responses")
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_before_the_first_update_all_losses_have_the_gradient_of_the_policy_gradient(aggregation):
    """The ratio is 1, so each is that of -A log pi, and advantages may differ between the tokens of a response."""
    new, _, _, mask = random_batch()
    advantages = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1))
    leaf = new.clone().requires_grad_()
    (expected,) = torch.autograd.grad(ppo.aggregate(-advantages * leaf, mask, aggregation, 8), leaf)
    for name in ppo.LOSSES:
        torch.testing.assert_close(loss_and_gradient(name, new, new, advantages, mask, aggregation)[1], expected)


def test_with_one_token_to_a_response_gspo_is_ppo():
    generator = torch.Generator().manual_seed(0)
    new, old, advantages = torch.randn(3, 7, 1, generator=generator)
    arguments = (new, old, advantages, masks([1] * 7, 1))
    torch.testing.assert_close(loss_and_gradient("gspo", *arguments), loss_and_gradient("ppo", *arguments))


# --- cispo, clip-higher -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio, weight", [(1.1, 1.1), (2.0, 1.3), (0.5, 0.8)])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_cispo_weights_the_gradient_of_every_token_with_its_clipped_ratio(ratio, weight, advantage):
    old = T([[-3.0]])
    loss, gradient = loss_and_gradient("cispo", old + math.log(ratio), old, T([[advantage]]), masks([1], 1))
    assert float(loss) == pytest.approx(-weight * advantage * (-3.0 + math.log(ratio)), rel=1e-5)
    assert float(gradient) == pytest.approx(-weight * advantage)


@pytest.mark.parametrize("ratio, advantage", [(1.4, 1.0), (0.7, -1.0)])
def test_beyond_the_clip_range_cispo_has_a_gradient_and_ppo_and_gspo_have_none(ratio, advantage):
    arguments = (T([[math.log(ratio)]]), T([[0.0]]), T([[advantage]]), masks([1], 1))
    gradients = {name: float(loss_and_gradient(name, *arguments)[1]) for name in ppo.LOSSES}
    assert gradients["ppo"] == gradients["gspo"] == 0 and abs(gradients["cispo"]) >= 0.8


@pytest.mark.parametrize("name", ppo.LOSSES)
def test_a_higher_upper_bound_moves_only_the_upper_bound(name):
    """Ratios 1.25 and 0.75, each with the advantage whose gradient the symmetric range of 0.2 would cut."""
    arguments = (T([[math.log(1.25)], [math.log(0.75)]]), torch.zeros(2, 1), T([[1.0], [-1.0]]), masks([1, 1], 1))
    losses = {high: ppo.LOSSES[name](*arguments, 0.2, high)[0] for high in (0.2, 0.28)}
    up, down = (losses[0.28] != losses[0.2])[:, 0].tolist()
    assert (up, down) == (True, False)


@pytest.mark.parametrize(
    "name, expected", [("ppo", [[1.5, 0.5]]), ("cispo", [[1.5, 0.5]]), ("gspo", [[0.75**0.5] * 2])]
)
def test_a_loss_returns_the_ratios_that_it_clips(name, expected):
    _, ratio = ppo.LOSSES[name](T([[1.5, 0.5]]).log(), torch.zeros(1, 2), torch.ones(1, 2), masks([2], 2), LOW, HIGH)
    torch.testing.assert_close(ratio, T(expected))


# --- aggregation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "aggregation, expected",
    [
        ("tokens", (1 + 3 + 8) / 3),
        ("responses", ((1 + 3) / 2 + 8) / 2),
        ("constant", (1 + 3 + 8) / (3 * 10)),  # also the third response counts, of which the mask has no token
    ],
)
def test_aggregation_equals_a_calculation_by_hand(aggregation, expected):
    losses, mask = T([[1.0, 3.0], [8.0, 99.0], [99.0, 99.0]]), masks([2, 1, 0], 2)
    assert float(ppo.aggregate(losses, mask, aggregation, 10)) == pytest.approx(expected)


@pytest.mark.parametrize("aggregation, count", [("tokens", 3), ("responses", 2), ("constant", 3)])
def test_the_count_of_an_aggregation_is_of_tokens_responses_or_rows(aggregation, count):
    assert int(ppo.aggregated_count(masks([2, 1, 0], 2), aggregation)) == count


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@given(batch=batches(), cut=st.integers(1, 3))
def test_the_weighted_mean_of_micro_batches_is_that_of_the_batch(aggregation, batch, cut):
    mask, losses = batch
    parts = [(losses[rows], mask[rows]) for rows in torch.arange(len(mask)).split(cut)]
    counts = [ppo.aggregated_count(part, aggregation) for _, part in parts]
    weighted = sum(ppo.aggregate(*part, aggregation, 8) * n for part, n in zip(parts, counts, strict=True)) / sum(
        counts
    )
    torch.testing.assert_close(weighted, ppo.aggregate(losses, mask, aggregation, 8), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_batch_without_a_token_has_a_loss_of_zero(aggregation):
    assert float(ppo.aggregate(torch.ones(2, 3), masks([0, 0], 3), aggregation, 8)) == 0


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("name", ppo.LOSSES)
@given(batch=batches(3), number=st.sampled_from([1e30, math.inf, math.nan]))
def test_no_number_outside_the_mask_changes_a_loss_or_its_gradient(name, aggregation, batch, number):
    mask, *inside = batch
    zeros, others = ([tensor.where(mask, fill) for tensor in inside] for fill in (0.0, number))
    expected = loss_and_gradient(name, *zeros, mask, aggregation)
    for one, other in zip(expected, loss_and_gradient(name, *others, mask, aggregation), strict=True):
        assert torch.equal(one, other) and other.isfinite().all()


# --- TRL --------------------------------------------------------------------------------------------------------------


def trl_loss(logprobs, old, advantages, mask, loss_type, level, cliprange, length=8):
    """The loss of TRL's GRPOTrainer, from its own `_compute_loss`, with these log-probabilities in place of a model's."""
    from trl import GRPOTrainer

    same = SimpleNamespace(num_processes=1, reduce=lambda x, reduction: x, gather=lambda x: x)
    trainer = SimpleNamespace(
        loss_type=loss_type, importance_sampling_level=level, epsilon_low=cliprange[0], epsilon_high=cliprange[1],
        max_completion_length=length, beta=0.0, top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False,
        aux_loss_enabled=False, _entropy_bonus_enabled=False, current_gradient_accumulation_steps=1, accelerator=same,
        args=SimpleNamespace(delta=None, steps_per_generation=1), model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logprobs, torch.zeros_like(logprobs), None),
    )  # fmt: skip
    ids = torch.zeros_like(mask, dtype=torch.long)
    inputs = {
        "prompt_ids": ids, "prompt_mask": mask.long(), "completion_ids": ids, "completion_mask": mask.long(),
        "advantages": advantages[:, 0], "old_per_token_logps": old, "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    return GRPOTrainer._compute_loss(trainer, None, inputs)


@pytest.mark.parametrize(
    "loss_type, level, name, aggregation, cliprange",
    [
        ("grpo", "token", "ppo", "responses", (LOW, HIGH)),
        ("dapo", "token", "ppo", "tokens", (LOW, HIGH)),
        ("bnpo", "token", "ppo", "tokens", (LOW, LOW)),
        ("dr_grpo", "token", "ppo", "constant", (LOW, HIGH)),
        ("grpo", "sequence", "gspo", "responses", (0.02, 0.03)),
        ("cispo", "token", "cispo", "tokens", (1.0, 0.3)),  # TRL's has no lower bound
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_equal_those_of_trls_grpo_trainer(loss_type, level, name, aggregation, cliprange, seed):
    new, old, advantages, mask = random_batch(seed)
    leaf, (low, high) = new.clone().requires_grad_(), cliprange
    # TRL's upper bound of cispo is that of the ratio, not of its distance from 1
    theirs = trl_loss(leaf, old, advantages, mask, loss_type, level, (low, 1 + high if name == "cispo" else high))
    loss, gradient = loss_and_gradient(name, new, old, advantages, mask, aggregation, cliprange)
    torch.testing.assert_close(loss, theirs.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, leaf)[0])
