"""Log-probabilities and entropies agree with transformers' loss, closed forms, and a computation in pieces."""

import math

import torch

from rlhf.engine.forward import SelectedStates
from rlhf.engine.logprobs import entropy, log_softmax, next_token_logprobs, text_logprobs
from rlhf.tokens import pad
from tests.responses import PAD


def test_text_logprobs_give_transformers_loss(policy):
    documents = [[5, 6, 7, 8, 0], [9, 10, 0]]
    logprobs, mask = text_logprobs(policy, *pad(documents, PAD, "right"))
    for i, ids in enumerate(documents):
        loss = policy(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss
        torch.testing.assert_close(-logprobs[i][mask[i]].mean(), loss, atol=1e-5, rtol=1e-5)


def test_the_entropy_of_a_uniform_distribution_is_the_log_of_its_size_and_impossible_tokens_add_nothing():
    for logits, count in ((torch.zeros(1, 2, 8), 8.0), (torch.tensor([[[0.0, -torch.inf, 0.0]]]), 2.0)):
        distribution = log_softmax(logits, temperature=0.5)
        result = entropy(distribution, distribution.exp())
        torch.testing.assert_close(result, torch.full(logits.shape[:2], count).log())


def test_a_token_gets_its_probability_from_the_state_before_it():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 5.0]])
    index = torch.tensor([0, 1])  # the tokens after these are 0 and 1
    states = SelectedStates(torch.tensor([1, 0, 1]), index, torch.empty(2, 0), lambda part: logits[index][part])
    result = next_token_logprobs(states, 1.0)
    torch.testing.assert_close(result, -torch.tensor([1 + math.e, 1 + math.exp(2)]).log())


def test_logits_in_pieces_give_the_same_logprobs_and_gradients(policy, monkeypatch):
    documents = pad([[5, 6, 7, 8, 0], [9, 10, 0]], PAD, "right")
    policy.double()  # the gradients of pieces are summed in another order

    def logprobs_and_gradients():
        policy.zero_grad()
        logprobs, _ = text_logprobs(policy, *documents)
        (logprobs * torch.arange(logprobs.numel()).view(logprobs.shape)).sum().backward()
        return logprobs.detach(), [p.grad.clone() for p in policy.parameters() if p.grad is not None]

    whole = logprobs_and_gradients()
    sizes = []
    monkeypatch.setattr("rlhf.engine.logprobs.MAX_LOGITS", 2 * policy.config.vocab_size)
    monkeypatch.setattr(
        "rlhf.engine.logprobs.log_softmax", lambda logits, t: sizes.append(len(logits)) or log_softmax(logits, t)
    )
    pieces = logprobs_and_gradients()
    assert sizes == [2, 2, 2] * 2  # six tokens, two at a time, and again for the gradient
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1.3e-6)
