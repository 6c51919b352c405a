"""The cache of keys and values returns what was written, wherever its blocks end."""

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig

from rlhf.engine import decoding
from rlhf.engine.decoding import BLOCK, BlockLayer, new_cache
from tests.conftest import tiny_gpt2
from tests.responses import assert_greedy_decoding_equals_transformers, logprobs_alone, responses_of, sample


def test_a_block_layer_returns_the_tokens_it_was_given_followed_by_zeros():
    layer, written = BlockLayer(), []
    for length in (3, *[1] * (BLOCK + 5)):
        written.append((torch.randn(2, 4, length, 8), torch.randn(2, 4, length, 6)))
        buffers = layer.update(*written[-1])
        count = layer.get_seq_length()
        for buffer, states in zip(buffers, zip(*written, strict=True), strict=True):
            assert torch.equal(buffer[:, :, :count], torch.cat(states, dim=2))
            assert not buffer[:, :, count:].any()
    assert count == BLOCK + 8 and buffers[0].shape[2] == 2 * BLOCK


def test_a_block_layer_copies_its_buffers_only_when_a_block_is_full():
    layer, addresses = BlockLayer(), []
    for _ in range(BLOCK + 1):
        layer.update(torch.randn(2, 4, 1, 8), torch.randn(2, 4, 1, 8))
        addresses.append((layer.keys.data_ptr(), layer.values.data_ptr()))
    assert len(set(addresses[:BLOCK])) == 1 and addresses[BLOCK] != addresses[0]
    assert layer.keys.is_contiguous()


@pytest.mark.parametrize("block", [1, 2, 5, 6, 64])
def test_the_block_size_does_not_change_samples_or_logprobs(policy, block, monkeypatch):
    """The longest prompt has six tokens."""
    monkeypatch.setattr(decoding, "BLOCK", block)
    assert_greedy_decoding_equals_transformers(policy)
    prompts = [[385, 328, 261, 376, 280, 294], [261, 376]] * 8
    responses = sample(policy, prompts, stop_ids=range(0, 400, 5))
    assert len(set(responses.lengths.tolist())) > 2
    assert (responses.lengths < responses.lengths.max()).sum() >= 8  # half of the rows have finished: they are dropped
    for i, response in enumerate(responses_of(responses)):
        alone = logprobs_alone(policy, prompts[i], response, 1.0)
        torch.testing.assert_close(responses.logprobs[i, : len(response)], alone, atol=1e-5, rtol=1e-5)


def test_the_cache_of_a_sliding_window_keeps_no_more_than_the_window():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=4, initializer_range=0.2, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    policy = AutoModelForCausalLM.from_config(config).eval()
    cache = new_cache(policy)
    for _ in range(9):
        cache.update(torch.randn(1, 2, 1, 8), torch.randn(1, 2, 1, 8), 0)
    assert cache.layers[0].keys.shape[2] < 5
    assert_greedy_decoding_equals_transformers(policy)


def test_a_model_with_another_attention_implementation_keeps_the_cache_of_transformers():
    policy = tiny_gpt2().eval()
    policy.set_attn_implementation("eager")
    assert not any(isinstance(layer, BlockLayer) for layer in new_cache(policy).layers)
    assert_greedy_decoding_equals_transformers(policy)
