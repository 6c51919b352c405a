"""The inputs of a pass: the length of a packed row, position ids, and the arguments a model takes."""

import torch

from rlhf.engine.forward import hidden_states
from rlhf.engine.passes import ROW_MULTIPLE, accepts_argument, position_ids
from rlhf.engine.support import probe
from tests.conftest import tiny_gpt2, tiny_llama
from tests.engine.batches import ALL_TOKENS, SEQUENCES, padded_batch


def test_a_packed_row_is_filled_up_to_a_multiple_or_to_the_size_of_the_padded_batch(policy):
    shapes = []
    probe(policy)
    policy.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    hidden_states(policy, *padded_batch(), ALL_TOKENS)
    assert shapes == [(1, len(SEQUENCES) * max(map(len, SEQUENCES)))]  # as many tokens as with padding
    long, mask = torch.full((40, 20), 7), torch.ones(40, 20, dtype=torch.long)
    mask[1:, 10:] = 0
    hidden_states(policy, long, mask, ALL_TOKENS)
    assert shapes[-1] == (1, -(-410 // ROW_MULTIPLE) * ROW_MULTIPLE)


def test_positions_count_real_tokens_only():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert position_ids(mask)[0, 2:].tolist() == [0, 1, 2]
    assert position_ids(mask)[1, :3].tolist() == [0, 1, 2]


def test_the_arguments_a_model_accepts_are_those_of_its_forward_method():
    assert accepts_argument(tiny_gpt2(), "position_ids")
    assert accepts_argument(tiny_llama(), "logits_to_keep")
    assert not accepts_argument(torch.nn.Linear(1, 1), "position_ids")
