"""Attention is transformers', to rounding: values and gradients, of rows with a mask and of sequences in one row."""

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import rlhf.attention
from rlhf.attention import _Products, attention, lay


class Attention(torch.nn.Module):
    """What transformers hands to an attention function of the module it serves."""

    def __init__(self, groups: int):
        super().__init__()
        self.is_causal, self.num_key_value_groups = True, groups
        self.eval()


def states(batch, length, heads=4, width=8, seed=0):
    torch.manual_seed(seed)
    return torch.randn(batch, heads, length, width).requires_grad_()


def with_gradients(function, *inputs):
    output = function(*inputs)
    weight = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return output, *torch.autograd.grad((output * weight).sum(), inputs)


# --- rows with a mask -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain_length", [512, 4], ids=["products", "fused"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("new", [9, 1], ids=["prompt", "one token"])
@pytest.mark.parametrize("mask", ["bool", "added", "none"])
def test_attention_is_that_of_transformers(monkeypatch, plain_length, groups, new, mask):
    monkeypatch.setattr(rlhf.attention, "PLAIN_LENGTH", plain_length)
    seen = torch.ones(3, 1, new, 9, dtype=torch.bool).tril(9 - new)
    seen[1, ..., :3] = False  # padding on the left
    seen[1, :, :3] |= torch.eye(9, dtype=torch.bool)[:3] if new == 9 else False
    given = {"bool": seen, "added": torch.zeros(seen.shape).masked_fill(~seen, -1e30), "none": None}[mask]
    inputs = states(3, new), states(3, 9, 4 // groups, seed=1), states(3, 9, 4 // groups, seed=2)
    module = Attention(groups)
    ours, theirs = (
        with_gradients(lambda *qkv, function=function: function(module, *qkv, given, scaling=0.3)[0], *inputs)
        for function in (attention, sdpa_attention_forward)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_row_in_which_everything_is_hidden_is_a_number():
    hidden = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    output, _ = attention(Attention(1), *(states(1, 3, seed=i) for i in range(3)), hidden)
    assert output.isfinite().all()


# --- sequences in one row ---------------------------------------------------------------------------------------------

# of three sequences; of six, the second of which has 3 tokens in common with the first, the fourth all 2 with the third,
# and the last two nothing with others
ALONE = [5, 9, 2], None, None
ALIKE = [5, 9, 4, 2, 7, 6], [0, 0, 2, 2, 4, 5], [0, 3, 0, 2, 0, 0]


def in_one_row(module, layout, *qkv, **kwargs):
    """The outputs of all sequences, one after the other, out of one row: those of common tokens with each of theirs."""
    output = attention(module, *qkv, layout.as_mask(), scaling=0.3, **kwargs)[0]
    return output[:, layout.place]


def each_alone(module, layout, *qkv):
    """The same from transformers' attention of each sequence by itself."""
    parts = [[s[:, :, piece] for s in qkv] for piece in layout.place.split(layout.lengths)]
    return torch.cat([sdpa_attention_forward(module, *part, None, scaling=0.3)[0] for part in parts], dim=1)


def laid(sequences):
    lengths, first, shared = (None if numbers is None else torch.tensor(numbers) for numbers in sequences)
    layout = lay(lengths, first, shared)
    layout.lengths = lengths.tolist()
    return layout


@pytest.mark.parametrize("plain_length", [512, 4], ids=["products", "fused"])
@pytest.mark.parametrize("tables", [1, 3])
@pytest.mark.parametrize("filler", [0, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("sequences", [ALONE, ALIKE], ids=["alone", "alike"])
def test_sequences_in_one_row_see_themselves_and_what_fills_the_row_teaches_nothing(
    monkeypatch, plain_length, tables, filler, groups, sequences
):
    for name, number in (("PLAIN_LENGTH", plain_length), ("TABLES", tables), ("ROWS", 1), ("ROUND", 2)):
        monkeypatch.setattr(rlhf.attention, name, number)
    layout, module = laid(sequences), Attention(groups)
    assert len(layout.tables) == (tables if sequences is ALONE else {1: 2, 3: 4}[tables])
    assert layout.tokens == sum(sequences[0]) - sum(sequences[2] or [])
    row = layout.tokens + filler
    inputs = [states(1, row, heads, seed=i) for i, heads in enumerate((4, 4 // groups, 4 // groups))]
    ours, theirs = (
        with_gradients(lambda *qkv, function=function: function(module, layout, *qkv), *inputs)
        for function in (in_one_row, each_alone)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_sequences_of_one_length_share_a_table_and_others_are_beside_those_most_like_them(monkeypatch):
    monkeypatch.setattr(rlhf.attention, "ROWS", 2)
    monkeypatch.setattr(rlhf.attention, "TABLES", 4)
    assert [table.sizes for table in lay(torch.tensor([8, 7, 8, 6, 5, 8, 8, 3])).tables] == [(8, 8, 8)]
    sizes = [table.sizes for table in lay(torch.tensor([8, 40, 7, 39, 6, 20, 20, 3])).tables]
    assert sizes == [(2, 40, 40), (2, 24, 24), (4, 8, 8)]


def test_a_sequence_that_is_the_same_as_another_asks_nothing():
    layout = laid(([8] * 16, [0] * 16, [0] + [8] * 15))
    inputs = [states(1, layout.tokens, seed=i) for i in range(3)]
    assert layout.tokens == 8
    output = in_one_row(Attention(1), layout, *inputs).view(16, 8, 4, 8)
    torch.testing.assert_close(output, output[:1].expand_as(output))
    torch.testing.assert_close(output[:1].flatten(0, 1), each_alone(Attention(1), laid(([8], None, None)), *inputs)[0])


def test_what_is_in_the_row_once_is_asked_for_once():
    prompt = 40
    lengths, first, shared = torch.full((32,), prompt + 8), torch.zeros(32, dtype=torch.long), torch.full((32,), prompt)
    shared[0] = 0
    layout = lay(lengths, first, shared)
    assert layout.tokens == prompt + 32 * 8
    # but for the first, whose prompt it is, nobody asks more than its 8 tokens
    assert [table.sizes for table in layout.tables] == [(1, 48, 48), (31, 8, 48)]


@pytest.mark.parametrize("sequences", [ALONE, ALIKE], ids=["alone", "alike"])
def test_the_gradient_of_products_is_that_of_finite_differences(sequences):
    layout = laid(sequences)
    inputs = [states(1, layout.tokens, 2, 4, seed=i)[0].double().detach().requires_grad_() for i in range(3)]
    assert torch.autograd.gradcheck(lambda *qkv: _Products.apply(*qkv, layout, 0.3), inputs)


def test_mixed_precision_rounds_the_products_and_nothing_else():
    layout = laid(ALIKE)
    inputs = [states(1, layout.tokens, seed=i) for i in range(3)]
    exact = with_gradients(lambda *qkv: in_one_row(Attention(1), layout, *qkv), *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = with_gradients(lambda *qkv: in_one_row(Attention(1), layout, *qkv).float(), *inputs)
    for one, other in zip(mixed, exact, strict=True):
        assert 0 < (one - other).abs().max() < 0.02 * other.abs().max()


def test_dropout_of_attention_leaves_out_and_scales_what_is_left():
    layout = laid(ALONE)
    inputs = [states(1, layout.tokens, seed=i).detach() for i in range(2)]
    inputs.append(torch.ones_like(inputs[0]))
    torch.manual_seed(0)
    output = torch.cat([in_one_row(Attention(1), layout, *inputs, dropout=0.5) for _ in range(200)])
    assert set(output[:, 0].unique().tolist()) == {0.0, 2.0}  # a first token sees itself alone
    assert output.mean() == pytest.approx(1, abs=0.05)


def test_a_row_of_sequences_is_refused_by_a_model_that_wants_more_of_attention():
    row = [states(1, sum(ALONE[0]), seed=i) for i in range(3)]
    for wanted in ({"sliding_window": 4}, {"softcap": 50.0}):
        with pytest.raises(NotImplementedError, match=next(iter(wanted))):
            attention(Attention(1), *row, laid(ALONE).as_mask(), **wanted)
    module = Attention(1)
    module.is_causal = False
    with pytest.raises(NotImplementedError, match="what follows"):
        attention(module, *row, laid(ALONE).as_mask())
