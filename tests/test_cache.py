"""The cache of a decode: what is read is what was written, wherever a block ends."""

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig

from rlhf import cache
from rlhf.cache import BLOCK, BlockLayer, new_cache
from tests.conftest import tiny_gpt2
from tests.test_rollout import logprobs_alone, responses_of, sample
from tests.test_rollout import test_greedy_decoding_is_that_of_transformers as greedy_decoding_is_that_of_transformers


def test_tokens_are_read_as_they_were_given_and_what_is_not_there_yet_is_zero():
    layer, given = BlockLayer(), []
    for length in (3, *[1] * (BLOCK + 5)):
        given.append((torch.randn(2, 4, length, 8), torch.randn(2, 4, length, 6)))
        read = layer.update(*given[-1])
        count = layer.get_seq_length()
        for states, all_states in zip(read, zip(*given, strict=True), strict=True):
            assert torch.equal(states[:, :, :count], torch.cat(all_states, dim=2))
            assert not states[:, :, count:].any()
    assert count == BLOCK + 8 and read[0].shape[2] == 2 * BLOCK


def test_a_token_is_written_where_there_is_room_and_the_others_are_not_copied():
    layer, places = BlockLayer(), []
    for _ in range(BLOCK + 1):
        layer.update(torch.randn(2, 4, 1, 8), torch.randn(2, 4, 1, 8))
        places.append((layer.keys.data_ptr(), layer.values.data_ptr()))
    assert len(set(places[:BLOCK])) == 1 and places[BLOCK] != places[0]
    assert layer.keys.is_contiguous()


@pytest.mark.parametrize("block", [1, 2, 5, 6, 64])
def test_where_blocks_end_makes_no_difference(policy, block, monkeypatch):
    """Rows that end are dropped on the way; the longest prompt has six tokens."""
    monkeypatch.setattr(cache, "BLOCK", block)
    greedy_decoding_is_that_of_transformers(policy)
    responses = sample(policy, [[385, 328, 261, 376, 280, 294], [261, 376]] * 4, stop_ids=range(0, 400, 5))
    assert len(set(responses.lengths.tolist())) > 2
    for i, response in enumerate(responses_of(responses)):
        alone = logprobs_alone(policy, [[385, 328, 261, 376, 280, 294], [261, 376]][i % 2], response, 1.0)
        torch.testing.assert_close(responses.logprobs[i, : len(response)], alone, atol=1e-5, rtol=1e-5)


def test_a_sliding_window_stays_one():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=4, initializer_range=0.2, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    policy = AutoModelForCausalLM.from_config(config).eval()
    sliding = new_cache(policy)
    for _ in range(9):
        sliding.update(torch.randn(1, 2, 1, 8), torch.randn(1, 2, 1, 8), 0)
    assert sliding.layers[0].keys.shape[2] < 5
    greedy_decoding_is_that_of_transformers(policy)


def test_a_model_with_an_attention_of_its_own_keeps_transformers_cache():
    policy = tiny_gpt2().eval()
    policy.set_attn_implementation("eager")
    assert not any(isinstance(layer, BlockLayer) for layer in new_cache(policy).layers)
    greedy_decoding_is_that_of_transformers(policy)
