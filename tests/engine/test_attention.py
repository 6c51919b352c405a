"""Attention equals transformers' to rounding, values and gradients, for padded rows with a mask and for packed rows."""

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import rlhf.engine.attention
import rlhf.engine.packing
from rlhf.engine.attention import _GroupedProducts, attention
from rlhf.engine.packing import PackedLayout, pack


class AttentionModule(torch.nn.Module):
    """The attributes that an attention function reads from the module that calls it."""

    def __init__(self, key_value_groups: int):
        super().__init__()
        self.is_causal, self.num_key_value_groups = True, key_value_groups
        self.eval()


def random_states(batch, length, heads=4, width=8, seed=0):
    torch.manual_seed(seed)
    return torch.randn(batch, heads, length, width).requires_grad_()


def with_gradients(function, *inputs):
    """The output, and the gradients of a weighted sum of it."""
    output = function(*inputs)
    weight = torch.linspace(-1, 1, output.numel(), device=output.device).view(output.shape)
    return output, *torch.autograd.grad((output * weight).sum(), inputs)


# --- padded rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_product_length", [512, 4], ids=["products", "fused"])
@pytest.mark.parametrize("key_value_groups", [1, 2])
@pytest.mark.parametrize("queries", [9, 1], ids=["prompt", "one token"])
@pytest.mark.parametrize("mask_type", ["bool", "additive", "none"])
def test_attention_equals_that_of_transformers(monkeypatch, max_product_length, key_value_groups, queries, mask_type):
    monkeypatch.setattr(rlhf.engine.attention, "MAX_PRODUCT_LENGTH", max_product_length)
    visible = torch.ones(3, 1, queries, 9, dtype=torch.bool).tril(9 - queries)
    visible[1, ..., :3] = False  # padding on the left
    visible[1, :, :3] |= torch.eye(9, dtype=torch.bool)[:3] if queries == 9 else False
    additive = torch.zeros(visible.shape).masked_fill(~visible, -1e30)
    mask = {"bool": visible, "additive": additive, "none": None}[mask_type]
    key_heads = 4 // key_value_groups
    inputs = random_states(3, queries), random_states(3, 9, key_heads, seed=1), random_states(3, 9, key_heads, seed=2)
    module = AttentionModule(key_value_groups)
    ours, theirs = (
        with_gradients(lambda *qkv, function=function: function(module, *qkv, mask, scaling=0.3)[0], *inputs)
        for function in (attention, sdpa_attention_forward)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_output_of_a_fully_masked_row_is_finite():
    mask = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    output, _ = attention(AttentionModule(1), *(random_states(1, 3, seed=i) for i in range(3)), mask)
    assert output.isfinite().all()


# --- packed rows ------------------------------------------------------------------------------------------------------

# lengths, prefix rows and prefix lengths: of three sequences that share nothing; and of six, of which the second shares 3
# tokens with the first, the fourth all 2 with the third, and the last two nothing
DISTINCT = [5, 9, 2], None, None
SHARED = [5, 9, 4, 2, 7, 6], [0, 0, 2, 2, 4, 5], [0, 3, 0, 2, 0, 0]


def layout_of(sequences) -> PackedLayout:
    return pack(*(None if numbers is None else torch.tensor(numbers) for numbers in sequences))


def packed_outputs(layout, module, *qkv, **kwargs):
    """The outputs (1, N, H, D) of a packed row, sequence after sequence; a shared prefix appears in each of them."""
    output = attention(module, *qkv, layout.as_attention_mask(), scaling=0.3, **kwargs)[0]
    return output[:, layout.row_position]


def outputs_alone(layout, lengths, module, *qkv):
    """The same by transformers' attention of each sequence alone."""
    sequences = [[states[:, :, index] for states in qkv] for index in layout.row_position.split(lengths)]
    return torch.cat([sdpa_attention_forward(module, *states, None, scaling=0.3)[0] for states in sequences], dim=1)


@pytest.mark.parametrize("max_product_length", [512, 4], ids=["products", "fused"])
@pytest.mark.parametrize("max_groups", [1, 3])
@pytest.mark.parametrize("filler", [0, 3])
@pytest.mark.parametrize("key_value_groups", [1, 2])
@pytest.mark.parametrize("sequences", [DISTINCT, SHARED], ids=["distinct", "shared prefixes"])
def test_packed_sequences_equal_each_alone_and_filler_gets_no_gradient(
    monkeypatch, max_product_length, max_groups, filler, key_value_groups, sequences
):
    monkeypatch.setattr(rlhf.engine.attention, "MAX_PRODUCT_LENGTH", max_product_length)
    for name, number in (("MAX_GROUPS", max_groups), ("MIN_GROUP_SIZE", 1), ("LENGTH_MULTIPLE", 2)):
        monkeypatch.setattr(rlhf.engine.packing, name, number)
    lengths, _, prefix_lengths = sequences
    layout, module = layout_of(sequences), AttentionModule(key_value_groups)
    assert len(layout.groups) == (max_groups if sequences is DISTINCT else {1: 2, 3: 4}[max_groups])
    assert layout.length == sum(lengths) - sum(prefix_lengths or [])
    heads = 4, 4 // key_value_groups, 4 // key_value_groups
    inputs = [random_states(1, layout.length + filler, count, seed=i) for i, count in enumerate(heads)]
    ours = with_gradients(lambda *qkv: packed_outputs(layout, module, *qkv), *inputs)
    theirs = with_gradients(lambda *qkv: outputs_alone(layout, lengths, module, *qkv), *inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_identical_sequences_take_the_tokens_of_one_and_have_its_output():
    layout = layout_of(([8] * 16, [0] * 16, [0] + [8] * 15))
    inputs = [random_states(1, layout.length, seed=i) for i in range(3)]
    assert layout.length == 8
    output = packed_outputs(layout, AttentionModule(1), *inputs).view(16, 8, 4, 8)
    torch.testing.assert_close(output, output[:1].expand_as(output))
    alone = outputs_alone(layout_of(([8], None, None)), [8], AttentionModule(1), *inputs)
    torch.testing.assert_close(output[:1].flatten(0, 1), alone[0])


@pytest.mark.parametrize("sequences", [DISTINCT, SHARED], ids=["distinct", "shared prefixes"])
def test_the_gradient_of_grouped_products_equals_finite_differences(sequences):
    layout = layout_of(sequences)
    inputs = [random_states(1, layout.length, 2, 4, seed=i)[0].double().detach().requires_grad_() for i in range(3)]
    assert torch.autograd.gradcheck(lambda *qkv: _GroupedProducts.apply(*qkv, layout, 0.3), inputs)


def test_autocast_rounds_packed_attention_and_its_gradients_by_less_than_two_percent():
    layout = layout_of(SHARED)
    inputs = [random_states(1, layout.length, seed=i) for i in range(3)]
    exact = with_gradients(lambda *qkv: packed_outputs(layout, AttentionModule(1), *qkv), *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = with_gradients(lambda *qkv: packed_outputs(layout, AttentionModule(1), *qkv).float(), *inputs)
    for result, expected in zip(rounded, exact, strict=True):
        assert 0 < (result - expected).abs().max() < 0.02 * expected.abs().max()


def test_attention_dropout_zeroes_weights_and_scales_the_others():
    layout = layout_of(DISTINCT)
    inputs = [random_states(1, layout.length, seed=i).detach() for i in range(2)]
    inputs.append(torch.ones_like(inputs[0]))
    torch.manual_seed(0)
    output = torch.cat([packed_outputs(layout, AttentionModule(1), *inputs, dropout=0.5) for _ in range(200)])
    assert set(output[:, 0].unique().tolist()) == {0.0, 2.0}  # a first token attends to itself alone, with weight 1
    assert output.mean() == pytest.approx(1, abs=0.05)


def test_a_packed_row_is_refused_where_the_model_wants_more_than_causal_attention():
    row = [random_states(1, sum(DISTINCT[0]), seed=i) for i in range(3)]
    for argument in ({"sliding_window": 4}, {"softcap": 50.0}):
        with pytest.raises(NotImplementedError, match=next(iter(argument))):
            attention(AttentionModule(1), *row, layout_of(DISTINCT).as_attention_mask(), **argument)
    module = AttentionModule(1)
    module.is_causal = False
    with pytest.raises(NotImplementedError, match="not causal"):
        attention(module, *row, layout_of(DISTINCT).as_attention_mask())
