"""A pass over a batch says of each sequence what the model says of it alone, whatever the model allows."""

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from transformers import AutoModelForCausalLM, Gemma2Config, GPTNeoConfig, MistralConfig

from rlhf import forward
from rlhf.forward import accepts, alike, hidden_states, packs, position_ids, states
from tests.conftest import tiny_gpt2, tiny_llama

SEQUENCES = [[385, 328, 261, 376, 280, 294, 300], [261, 376], [291, 280, 294]]
EVERY = torch.arange(12)  # the numbers of their tokens
SIZES = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}


def unusual(name: str) -> torch.nn.Module:
    """Models that want more than causal attention, or say more than the product of their last layer."""
    configs = {
        "sliding window": lambda: MistralConfig(**SIZES, **SPECIAL, **HEADS, sliding_window=3),
        "caps": lambda: Gemma2Config(
            **SIZES, **SPECIAL, **HEADS, head_dim=8, sliding_window=3, final_logit_softcapping=5.0
        ),
        "attention of its own": lambda: GPTNeoConfig(
            vocab_size=400, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
            window_size=3, initializer_range=0.2, **SPECIAL,
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(configs[name]()).eval()


def batch():
    """The sequences with padding on both sides."""
    width = max(map(len, SEQUENCES)) + 2
    input_ids, mask = torch.ones(len(SEQUENCES), width, dtype=torch.long), torch.zeros(len(SEQUENCES), width).long()
    for row, ids in enumerate(SEQUENCES):
        start = min(row, width - len(ids))
        input_ids[row, start : start + len(ids)], mask[row, start : start + len(ids)] = torch.tensor(ids), 1
    return input_ids, mask


def check(policy):
    alone = [policy(input_ids=torch.tensor([ids]), output_hidden_states=True) for ids in SEQUENCES]
    hidden = torch.cat([output.hidden_states[-1][0] for output in alone])
    logits = torch.cat([output.logits[0] for output in alone])
    for at in (EVERY, torch.tensor([0, 5, 11])):
        found = states(policy, *batch(), at)
        assert found.ids.tolist() == sum(SEQUENCES, [])
        torch.testing.assert_close(found.hidden, hidden[at], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.logits(slice(1, 3)), logits[at[1:3]], atol=1e-4, rtol=1e-4)


def test_each_sequence_is_seen_as_if_it_were_alone(policy):
    check(policy)
    assert packs(policy)


@pytest.mark.parametrize("name", ["sliding window", "caps", "attention of its own"])
def test_a_model_that_can_not_do_without_padding_keeps_it_and_one_whose_logits_are_more_than_a_product_makes_them(name):
    policy = unusual(name)
    check(policy)
    assert not packs(policy)


@pytest.mark.parametrize("name", ["packs", "sliding window"])
def test_what_rows_begin_with_alike_is_seen_once_or_in_every_row_and_is_the_same(make_policy, name):
    policy = make_policy() if name == "packs" else unusual(name)
    input_ids, mask = batch()
    alone = hidden_states(policy, input_ids, mask, EVERY)
    rows = torch.tensor([0, 1, 2, 1, 0])  # twice the same, with the padding of theirs
    input_ids, mask, first = input_ids[rows], mask[rows], torch.tensor([0, 1, 2, 1, 2])
    input_ids[3, 2:] = torch.where(mask[3, 2:] == 1, 44, input_ids[3, 2:])  # ... but for its second token
    assert alike(input_ids, mask, first).tolist() == [0, 0, 0, 1, 0]
    every, last = torch.arange(int(mask.sum())), mask.sum(dim=1).cumsum(dim=0) - 1
    for at in (every, last):
        together, expected = (hidden_states(policy, input_ids, mask, at, *given) for given in ((first,), ()))
        torch.testing.assert_close(together, expected, atol=1e-5, rtol=1e-5)
        assert len(together) == len(at)
    torch.testing.assert_close(hidden_states(policy, input_ids, mask, EVERY, first), alone, atol=1e-5, rtol=1e-5)


def test_two_rows_are_alike_up_to_the_first_difference_wherever_their_padding_is():
    rows = [[1, 5, 6, 7, 8], [5, 6, 9, 8, 1], [1, 1, 5, 6, 7], [5, 6, 7, 8, 1], [6, 6, 7, 8, 1]]
    mask = [[0, 1, 1, 1, 1], [1, 1, 1, 1, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]
    assert alike(*map(torch.tensor, (rows, mask)), torch.zeros(5, dtype=torch.long)).tolist() == [0, 2, 3, 4, 0]


def test_gradients_are_the_same_with_and_without_padding(make_policy, monkeypatch):
    def gradient():
        policy = make_policy().eval()
        states(policy, *batch(), torch.tensor([3, 9, 11])).logits(slice(3)).log_softmax(-1)[:, 7].sum().backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])

    without = gradient()
    monkeypatch.setattr(forward, "packs", lambda model: False)
    torch.testing.assert_close(gradient(), without, atol=1e-5, rtol=1e-4)


def test_a_row_without_padding_holds_no_more_tokens_than_the_sequences_rounded_up(policy):
    shapes = []
    packs(policy)
    policy.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    hidden_states(policy, *batch(), EVERY)
    assert shapes == [(1, len(SEQUENCES) * max(map(len, SEQUENCES)))]  # no more than with padding
    long, mask = torch.full((40, 20), 7), torch.ones(40, 20, dtype=torch.long)
    mask[1:, 10:] = 0
    hidden_states(policy, long, mask, EVERY)
    assert shapes[-1] == (1, -(-410 // forward.ROUND) * forward.ROUND)


def test_a_model_is_tried_once_and_stays_in_the_mode_it_was_in(monkeypatch):
    policy, tried = tiny_llama().train(), []
    original = forward._packs_two
    monkeypatch.setattr(forward, "_packs_two", lambda model: tried.append(model.training) or original(model))
    assert packs(policy) and packs(policy)
    assert tried == [False]
    assert policy.training


def test_only_what_is_asked_for_becomes_logits():
    policy, made = tiny_gpt2().eval(), []
    states(policy, *batch(), EVERY)  # tries the model
    policy.lm_head.register_forward_hook(lambda module, args, output: made.append(output.shape))
    states(policy, *batch(), EVERY).logits(slice(4, 6))
    assert made == [(2, 400)]


def test_so_it_is_where_a_forward_pass_in_mixed_precision_was_put_in_the_place_of_the_models(policy):
    """As Accelerate does it: what such a pass rounds must not look like a model that makes more of its logits."""
    policy.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(policy.forward))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        made, output_layer = [], policy.get_output_embeddings()
        states(policy, *batch(), EVERY)  # tries the model
        output_layer.register_forward_hook(lambda module, args, output: made.append(output.shape[:-1].numel()))
        states(policy, *batch(), EVERY).logits(slice(4, 6))
    assert made == [2]


def test_positions_count_real_tokens_only():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert position_ids(mask)[0, 2:].tolist() == [0, 1, 2]
    assert position_ids(mask)[1, :3].tolist() == [0, 1, 2]


def test_what_a_model_takes_is_read_from_its_forward_pass():
    assert accepts(tiny_gpt2(), "position_ids")
    assert accepts(tiny_llama(), "logits_to_keep")
    assert not accepts(torch.nn.Linear(1, 1), "position_ids")
