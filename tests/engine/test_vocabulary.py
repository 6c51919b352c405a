"""Rows of an embedding that stand for no token have probability 0, and change nothing else."""

import pytest
import torch

from rlhf.engine import limit_vocabulary, only_tokens
from rlhf.rollout import generate, response_logprobs
from rlhf.tokens import pad
from tests.conftest import tiny_gpt2, tiny_llama
from tests.engine.batches import unusual_policy

TOKENS = 200  # of 400 rows
PROMPTS = [[5, 6, 7], [8, 9]] * 8


def sample(policy, temperature):
    batch = pad(PROMPTS, 1, "left")
    options = {"response_length": 8, "stop_ids": range(9), "pad_id": 1}
    return generate(policy, *batch, temperature=temperature, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama, lambda: unusual_policy("softcapping")])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_rows_beyond_the_tokens_are_never_sampled_and_not_part_of_the_softmax(make, temperature):
    policy = make().eval()
    assert sample(policy, temperature).tokens.max() >= TOKENS
    limit_vocabulary(policy, TOKENS)
    responses = sample(policy, temperature)
    assert responses.tokens.max() < TOKENS
    if temperature:
        updated, _ = response_logprobs(policy, responses, temperature)
        torch.testing.assert_close(updated, responses.logprobs, atol=1e-5, rtol=1e-5)
        ids = responses.input_ids[0][responses.attention_mask[0].bool()][None]
        length = int(responses.lengths[0])
        logits = policy(input_ids=ids).logits[0, -length - 1 : -1, :TOKENS] / temperature
        expected = logits.log_softmax(-1).gather(1, ids[0, -length:, None])[:, 0]
        torch.testing.assert_close(updated[0, :length], expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_a_softmax_over_the_tokens_alone():
    policy, hidden = tiny_gpt2(), torch.randn(5, 32)
    limit_vocabulary(policy, TOKENS)
    weight = torch.randn(400, 32, requires_grad=True)
    excluded = only_tokens(policy, hidden @ weight.T).log_softmax(-1)[:, 7].sum()
    sliced = (hidden @ weight.T)[:, :TOKENS].log_softmax(-1)[:, 7].sum()
    torch.testing.assert_close(excluded, sliced)
    one, other = (torch.autograd.grad(loss, weight)[0] for loss in (excluded, sliced))
    torch.testing.assert_close(one, other)
    assert not one[TOKENS:].any()


def test_logits_of_a_model_with_as_many_rows_as_tokens_are_returned_as_they_are():
    policy, logits = tiny_gpt2(), torch.randn(2, 400)
    limit_vocabulary(policy, 400)
    assert only_tokens(policy, logits) is logits
