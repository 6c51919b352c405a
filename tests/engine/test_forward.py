"""A forward pass over a batch gives each sequence the states it has alone, whatever shortcuts the model supports."""

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32

import rlhf.engine.forward
from rlhf.engine.forward import hidden_states, selected_states
from rlhf.engine.packing import shared_prefix_lengths
from rlhf.engine.support import supports_packing
from tests.conftest import tiny_gpt2
from tests.engine.batches import ALL_TOKENS, assert_batch_equals_each_sequence_alone, padded_batch, unusual_policy


def test_a_batch_gives_each_sequence_the_states_and_logits_it_has_alone(policy):
    assert_batch_equals_each_sequence_alone(policy)
    assert supports_packing(policy)


@pytest.mark.parametrize("name", ["sliding window", "softcapping", "custom attention"])
def test_a_batch_of_a_model_without_packing_gives_each_sequence_the_states_and_logits_it_has_alone(name):
    policy = unusual_policy(name)
    assert_batch_equals_each_sequence_alone(policy)
    assert not supports_packing(policy)


@pytest.mark.parametrize("name", ["packable", "sliding window"])
def test_computing_a_shared_prefix_once_gives_the_same_states(make_policy, name):
    policy = make_policy() if name == "packable" else unusual_policy(name)
    input_ids, mask = padded_batch()
    alone = hidden_states(policy, input_ids, mask, ALL_TOKENS)
    rows = torch.tensor([0, 1, 2, 1, 0])  # the fourth row repeats the second, and the last the first
    input_ids, mask, prefix_row = input_ids[rows], mask[rows], torch.tensor([0, 1, 2, 1, 2])
    input_ids[3, 2:] = torch.where(mask[3, 2:] == 1, 44, input_ids[3, 2:])  # ... with another second token
    assert shared_prefix_lengths(input_ids, mask, prefix_row).tolist() == [0, 0, 0, 1, 0]
    every, last = torch.arange(int(mask.sum())), mask.sum(dim=1).cumsum(dim=0) - 1
    for index in (every, last):
        shared = hidden_states(policy, input_ids, mask, index, prefix_row)
        torch.testing.assert_close(shared, hidden_states(policy, input_ids, mask, index), atol=1e-5, rtol=1e-5)
        assert len(shared) == len(index)
    shared = hidden_states(policy, input_ids, mask, ALL_TOKENS, prefix_row)
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-5)


def test_gradients_are_the_same_packed_and_padded(make_policy, monkeypatch):
    def gradient():
        policy = make_policy().eval()
        states = selected_states(policy, *padded_batch(), torch.tensor([3, 9, 11]))
        states.logits(slice(3)).log_softmax(-1)[:, 7].sum().backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])

    packed = gradient()
    monkeypatch.setattr(rlhf.engine.forward, "supports_packing", lambda model: False)
    torch.testing.assert_close(gradient(), packed, atol=1e-5, rtol=1e-4)


def test_logits_are_computed_for_the_requested_slice_only():
    policy, shapes = tiny_gpt2().eval(), []
    selected_states(policy, *padded_batch(), ALL_TOKENS)  # probes the model
    policy.lm_head.register_forward_hook(lambda module, args, output: shapes.append(output.shape))
    selected_states(policy, *padded_batch(), ALL_TOKENS).logits(slice(4, 6))
    assert shapes == [(2, 400)]


def test_logits_are_computed_for_the_requested_slice_only_under_mixed_precision(policy):
    """Accelerate replaces the model's forward; its rounding must not look like a head with more than one product."""
    policy.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(policy.forward))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        counts, output_layer = [], policy.get_output_embeddings()
        selected_states(policy, *padded_batch(), ALL_TOKENS)  # probes the model
        output_layer.register_forward_hook(lambda module, args, output: counts.append(output.shape[:-1].numel()))
        selected_states(policy, *padded_batch(), ALL_TOKENS).logits(slice(4, 6))
    assert counts == [2]
