"""Packing stores shared prefixes once and groups sequences of similar length."""

import torch

import rlhf.engine.packing
from rlhf.engine.packing import pack, shared_prefix_lengths


def test_groups_padded_to_the_same_shape_are_merged_and_others_are_ordered_by_length(monkeypatch):
    monkeypatch.setattr(rlhf.engine.packing, "MIN_GROUP_SIZE", 2)
    monkeypatch.setattr(rlhf.engine.packing, "MAX_GROUPS", 4)
    assert [group.shape for group in pack(torch.tensor([8, 7, 8, 6, 5, 8, 8, 3])).groups] == [(8, 8, 8)]
    shapes = [group.shape for group in pack(torch.tensor([8, 40, 7, 39, 6, 20, 20, 3])).groups]
    assert shapes == [(2, 40, 40), (2, 24, 24), (4, 8, 8)]


def test_a_shared_prompt_is_stored_once_and_has_queries_in_one_sequence_only():
    prompt = 40
    lengths, prefix_row = torch.full((32,), prompt + 8), torch.zeros(32, dtype=torch.long)
    prefix_lengths = torch.full((32,), prompt)
    prefix_lengths[0] = 0
    layout = pack(lengths, prefix_row, prefix_lengths)
    assert layout.length == prompt + 32 * 8
    # the first sequence holds the prompt; each of the others has queries for its own 8 tokens
    assert [group.shape for group in layout.groups] == [(1, 48, 48), (31, 8, 48)]


def test_shared_prefixes_end_at_the_first_difference_wherever_the_padding_is():
    input_ids = torch.tensor([[1, 5, 6, 7, 8], [5, 6, 9, 8, 1], [1, 1, 5, 6, 7], [5, 6, 7, 8, 1], [6, 6, 7, 8, 1]])
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]])
    prefix_lengths = shared_prefix_lengths(input_ids, mask, prefix_row=torch.zeros(5, dtype=torch.long))
    assert prefix_lengths.tolist() == [0, 2, 3, 4, 0]
