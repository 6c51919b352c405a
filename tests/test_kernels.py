"""Faster arithmetic is the same arithmetic, to rounding: values and gradients, with and without it."""

import json
from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rlhf import kernels
from rlhf.kernels import ATTENTION, GELU, attention, layout, products_by_onednn, speed_up
from tests.conftest import tiny_gpt2

LENGTHS = [5, 9, 2]
tanh_gelu = partial(torch.nn.functional.gelu, approximate="tanh")


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


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX2", reason="for a CPU without AVX-512")
def test_bf16_is_slow_where_there_are_no_instructions_for_it():
    assert kernels.slowness_of_bf16() > 2


# --- models -----------------------------------------------------------------------------------------------------------


def test_a_model_says_the_same_and_is_saved_the_same(make_policy, tmp_path):
    policy, ids, mask = make_policy().eval(), torch.randint(2, 400, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[0, :4] = 0
    before = policy(input_ids=ids, attention_mask=mask).logits
    policy.save_pretrained(tmp_path / "before")
    speed_up(policy)
    assert policy.config._attn_implementation == ATTENTION
    after = policy(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(after[mask.bool()], before[mask.bool()], atol=1e-5, rtol=1e-5)
    policy.save_pretrained(tmp_path / "after")
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "after")
    assert plain.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast", "gelu_pytorch_tanh"])
def test_a_tanh_gelu_is_replaced_and_its_name_in_the_configuration_stays(name, tmp_path):
    policy = tiny_gpt2(activation_function=name)
    speed_up(policy)
    assert sum(isinstance(module, GELU) for module in policy.modules()) == 2
    policy.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["activation_function"] == name


def test_other_activations_stay():
    policy = tiny_gpt2(activation_function="gelu")
    speed_up(policy)
    assert not any(isinstance(module, GELU) for module in policy.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_and_its_slope_are_those_of_torch(dtype):
    """Compared with double precision, both miss by the same."""
    x = torch.cat([torch.linspace(-12, 12, 2001), torch.tensor([0.0, -1e4, 1e4, -1e8, 1e8])]).to(dtype)
    exact, torchs, ours = (x.to(kind).clone().requires_grad_() for kind in (torch.float64, dtype, dtype))
    found = []
    for given, function in ((exact, tanh_gelu), (torchs, tanh_gelu), (ours, GELU())):
        output = function(given)
        output.sum().backward()
        assert output.dtype == given.dtype
        found.append(torch.stack([output.detach().double() / (1 + x.double().abs()), given.grad.double()]))
    exact, torchs, ours = found
    assert (ours - exact).abs().max() <= 2 * (torchs - exact).abs().max()
    without = GELU()(x)
    assert not without.requires_grad
    torch.testing.assert_close(without.double() / (1 + x.double().abs()), ours[0], rtol=0, atol=0)


def test_the_slope_of_gelu_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(GELU(), torch.linspace(-9, 9, 61, dtype=torch.float64, requires_grad=True))


def test_an_attention_that_was_chosen_stays(policy):
    policy.set_attn_implementation("eager")
    speed_up(policy)
    assert policy.config._attn_implementation == "eager"


# --- products ---------------------------------------------------------------------------------------------------------


def test_fp32_products_stay_fp32():
    products_by_onednn()
    torch.manual_seed(0)
    one, other = torch.randn(300, 400), torch.randn(400, 500)
    exact = one.double() @ other.double()
    assert ((one @ other).double() - exact).abs().max() < 1e-4  # bf16 would be off by about 0.1


def test_where_products_would_be_rounded_the_setting_is_taken_back(monkeypatch):
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    try:
        setting.fp32_precision = "ieee"
        monkeypatch.setattr(torch, "equal", lambda one, other: False)
        assert not products_by_onednn.__wrapped__()
        assert setting.fp32_precision == "ieee"
    finally:
        setting.fp32_precision = before


def test_a_c_library_without_the_setting_is_left_alone(monkeypatch):
    monkeypatch.setattr(kernels.ctypes, "CDLL", lambda name: object())
    kernels.keep_freed_memory.__wrapped__()


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain_length", [512, 4], ids=["products", "fused"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("new", [9, 1], ids=["prompt", "one token"])
@pytest.mark.parametrize("mask", ["bool", "added", "none"])
def test_attention_is_that_of_transformers(monkeypatch, plain_length, groups, new, mask):
    monkeypatch.setattr(kernels, "PLAIN_LENGTH", plain_length)
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


@pytest.mark.parametrize("plain_length", [512, 4], ids=["products", "fused"])
@pytest.mark.parametrize("filler", [0, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_sequences_in_one_row_see_themselves_and_what_fills_the_row_teaches_nothing(
    monkeypatch, plain_length, filler, groups
):
    monkeypatch.setattr(kernels, "PLAIN_LENGTH", plain_length)
    tokens, module = sum(LENGTHS), Attention(groups)
    inputs = [states(1, tokens + filler, heads, seed=i) for i, heads in enumerate((4, 4 // groups, 4 // groups))]
    where = layout(torch.tensor(LENGTHS))

    def together(*qkv):
        return attention(module, *qkv, where, scaling=0.3)[0][:, :tokens]

    def alone(*qkv):
        parts = zip(*(s[:, :, :tokens].split(LENGTHS, dim=2) for s in qkv), strict=True)
        return torch.cat([sdpa_attention_forward(module, *part, None, scaling=0.3)[0] for part in parts], dim=1)

    torch.testing.assert_close(with_gradients(together, *inputs), with_gradients(alone, *inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("plain_length", [512, 4], ids=["products", "fused"])
@pytest.mark.parametrize("groups", [1, 2])
def test_what_sequences_begin_with_alike_is_in_the_row_once_and_learns_from_all(monkeypatch, plain_length, groups):
    monkeypatch.setattr(kernels, "PLAIN_LENGTH", plain_length)
    # of the second sequence 3 tokens are the first's, of the fourth all 2 are the third's; 4 tokens fill the row
    where = layout(torch.tensor([5, 9, 4, 2]), torch.tensor([0, 0, 2, 2]), torch.tensor([0, 3, 0, 2]))
    pieces = [[0, 1, 2, 3, 4], [0, 1, 2, 5, 6, 7, 8, 9, 10], [11, 12, 13, 14], [11, 12]]
    own, module = [slice(0, 5), slice(3, 9), slice(0, 4), slice(2, 2)], Attention(groups)
    inputs = [states(1, 15 + 4, heads, seed=i) for i, heads in enumerate((4, 4 // groups, 4 // groups))]

    def together(*qkv):
        return attention(module, *qkv, where, scaling=0.3)[0][:, :15]

    def alone(*qkv):
        each = [[s[:, :, piece] for s in qkv] for piece in pieces]
        outputs = [sdpa_attention_forward(module, *part, None, scaling=0.3)[0] for part in each]
        return torch.cat([output[:, rows] for output, rows in zip(outputs, own, strict=True)], dim=1)

    torch.testing.assert_close(with_gradients(together, *inputs), with_gradients(alone, *inputs), atol=1e-5, rtol=1e-5)


def test_a_row_of_sequences_is_refused_by_a_model_that_wants_more_of_attention():
    row = [states(1, sum(LENGTHS), seed=i) for i in range(3)]
    for wanted in ({"sliding_window": 4}, {"softcap": 50.0}):
        with pytest.raises(NotImplementedError, match=next(iter(wanted))):
            attention(Attention(1), *row, layout(torch.tensor(LENGTHS)), **wanted)
    module = Attention(1)
    module.is_causal = False
    with pytest.raises(NotImplementedError, match="what follows"):
        attention(module, *row, layout(torch.tensor(LENGTHS)))
