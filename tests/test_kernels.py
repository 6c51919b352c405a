"""Faster arithmetic is the same arithmetic, to rounding: values and gradients, with and without it."""

import json
from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from rlhf import kernels
from rlhf.attention import ATTENTION
from rlhf.kernels import GELU, _can_pack, packed_weights, products_by_onednn, speed_up
from tests.conftest import tiny_gpt2

tanh_gelu = partial(torch.nn.functional.gelu, approximate="tanh")


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


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_packed_weights_give_the_same_products_and_only_for_as_long_as_they_are_asked_for(make_policy, precision):
    policy, ids = make_policy().eval(), torch.arange(2, 42).view(4, 10)
    layers = [module for module in policy.modules() if type(module) in (torch.nn.Linear, Conv1D)]
    for factor in (1.0, 0.5):
        # in each turn a context of its own: torch keeps weights that it has rounded for as long as one lasts
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            layers[0].weight.mul_(factor)  # packed are the weights as they are, not as they were
            before = policy(input_ids=ids).logits
            with packed_weights(policy, 4):
                replaced = [layer for layer in layers if "forward" in vars(layer)]
                after = policy(input_ids=ids).logits
            assert not any("forward" in vars(layer) for layer in layers)
            if _can_pack(torch.bfloat16 if precision == "bf16" else torch.float32):
                assert replaced == layers
            assert after.dtype == before.dtype
            allowed = float(before.abs().max()) * (2e-2 if precision == "bf16" else 1e-5)
            torch.testing.assert_close(after, before, atol=allowed, rtol=0)


def test_layers_that_are_not_packed_where_something_else_calls_them_or_their_products_would_be_others(monkeypatch):
    policy, lent = tiny_gpt2(), []
    policy.transformer.h[0].mlp.c_fc.forward = lent.append  # as Accelerate does, to move weights about
    with packed_weights(policy, 4):
        assert policy.transformer.h[0].mlp.c_fc.forward == lent.append
    assert "forward" in vars(policy.transformer.h[0].mlp.c_fc)
    monkeypatch.setattr(kernels, "_packed", lambda module, rows, dtype: lambda x: torch.zeros(8, 24))
    assert not _can_pack.__wrapped__(torch.bfloat16)
    monkeypatch.setattr(kernels, "products_by_onednn", lambda: False)
    assert not _can_pack.__wrapped__(torch.float32)


def test_the_question_whether_weights_can_be_packed_draws_no_random_number():
    before = torch.get_rng_state()
    for dtype in (torch.float32, torch.bfloat16):
        _can_pack.__wrapped__(dtype)
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_are_as_they_were_after_an_error():
    policy = tiny_gpt2()
    with pytest.raises(KeyError), packed_weights(policy, 4):
        raise KeyError
    assert not any("forward" in vars(module) for module in policy.modules())


def test_a_c_library_without_the_setting_is_left_alone(monkeypatch):
    monkeypatch.setattr(kernels.ctypes, "CDLL", lambda name: object())
    kernels.keep_freed_memory.__wrapped__()
