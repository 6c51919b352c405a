"""Faster kernels give the same values and gradients, to rounding."""

import json
from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from rlhf.engine import kernels
from rlhf.engine.attention import ATTENTION
from rlhf.engine.kernels import GELU, _can_prepack, optimize, prepacked_weights, use_onednn_products
from tests.conftest import tiny_gpt2

tanh_gelu = partial(torch.nn.functional.gelu, approximate="tanh")


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX2", reason="for a CPU without AVX-512")
def test_bf16_is_slow_without_instructions_for_it():
    assert kernels.bf16_slowdown() > 2


# --- models -----------------------------------------------------------------------------------------------------------


def test_an_optimized_model_has_the_same_logits_and_the_same_saved_files(make_policy, tmp_path):
    policy, ids, mask = make_policy().eval(), torch.randint(2, 400, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[0, :4] = 0
    before = policy(input_ids=ids, attention_mask=mask).logits
    policy.save_pretrained(tmp_path / "before")
    optimize(policy)
    assert policy.config._attn_implementation == ATTENTION
    after = policy(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(after[mask.bool()], before[mask.bool()], atol=1e-5, rtol=1e-5)
    policy.save_pretrained(tmp_path / "after")
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "after")
    assert loaded.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast", "gelu_pytorch_tanh"])
def test_a_tanh_gelu_is_replaced_and_keeps_its_name_in_the_config(name, tmp_path):
    policy = tiny_gpt2(activation_function=name)
    optimize(policy)
    assert sum(isinstance(module, GELU) for module in policy.modules()) == 2
    policy.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["activation_function"] == name


def test_other_activations_are_not_replaced():
    policy = tiny_gpt2(activation_function="gelu")
    optimize(policy)
    assert not any(isinstance(module, GELU) for module in policy.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_and_its_derivative_are_at_most_twice_as_far_from_float64_as_those_of_torch(dtype):
    x = torch.cat([torch.linspace(-12, 12, 2001), torch.tensor([0.0, -1e4, 1e4, -1e8, 1e8])]).to(dtype)
    exact, torchs, ours = (x.to(kind).clone().requires_grad_() for kind in (torch.float64, dtype, dtype))
    results = []
    for inputs, function in ((exact, tanh_gelu), (torchs, tanh_gelu), (ours, GELU())):
        output = function(inputs)
        output.sum().backward()
        assert output.dtype == inputs.dtype
        results.append(torch.stack([output.detach().double() / (1 + x.double().abs()), inputs.grad.double()]))
    exact, torchs, ours = results
    assert (ours - exact).abs().max() <= 2 * (torchs - exact).abs().max()
    without_gradient = GELU()(x)
    assert not without_gradient.requires_grad
    torch.testing.assert_close(without_gradient.double() / (1 + x.double().abs()), ours[0], rtol=0, atol=0)


def test_the_derivative_of_gelu_equals_finite_differences():
    assert torch.autograd.gradcheck(GELU(), torch.linspace(-9, 9, 61, dtype=torch.float64, requires_grad=True))


def test_an_attention_implementation_other_than_sdpa_is_not_replaced(policy):
    policy.set_attn_implementation("eager")
    optimize(policy)
    assert policy.config._attn_implementation == "eager"


# --- matrix products --------------------------------------------------------------------------------------------------


def test_onednn_products_of_fp32_matrices_have_fp32_precision():
    use_onednn_products()
    torch.manual_seed(0)
    a, b = torch.randn(300, 400), torch.randn(400, 500)
    exact = a.double() @ b.double()
    assert ((a @ b).double() - exact).abs().max() < 1e-4  # bf16 would be off by about 0.1


def test_the_onednn_setting_is_reset_where_products_are_rounded(monkeypatch):
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    try:
        setting.fp32_precision = "ieee"
        monkeypatch.setattr(torch, "equal", lambda result, expected: False)
        assert not use_onednn_products.__wrapped__()
        assert setting.fp32_precision == "ieee"
    finally:
        setting.fp32_precision = before


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_prepacked_weights_give_the_same_logits_and_are_used_within_the_context_only(make_policy, precision):
    policy, ids = make_policy().eval(), torch.arange(2, 42).view(4, 10)
    layers = [module for module in policy.modules() if type(module) in (torch.nn.Linear, Conv1D)]
    for factor in (1.0, 0.5):
        # each turn has its own autocast context, because torch caches rounded weights until a context ends
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            layers[0].weight.mul_(factor)  # the second turn fails if it uses the first turn's packed weights
            before = policy(input_ids=ids).logits
            with prepacked_weights(policy, 4):
                replaced = [layer for layer in layers if "forward" in vars(layer)]
                after = policy(input_ids=ids).logits
            assert not any("forward" in vars(layer) for layer in layers)
            if _can_prepack(torch.bfloat16 if precision == "bf16" else torch.float32):
                assert replaced == layers
            assert after.dtype == before.dtype
            tolerance = float(before.abs().max()) * (2e-2 if precision == "bf16" else 1e-5)
            torch.testing.assert_close(after, before, atol=tolerance, rtol=0)


def test_weights_are_not_prepacked_if_the_forward_method_was_replaced_or_the_product_would_differ(monkeypatch):
    policy, calls = tiny_gpt2(), []
    policy.transformer.h[0].mlp.c_fc.forward = calls.append  # as Accelerate does to offload weights
    with prepacked_weights(policy, 4):
        assert policy.transformer.h[0].mlp.c_fc.forward == calls.append
    assert "forward" in vars(policy.transformer.h[0].mlp.c_fc)
    monkeypatch.setattr(kernels, "use_onednn_products", lambda: False)
    assert not _can_prepack.__wrapped__(torch.float32)
    monkeypatch.setattr(kernels, "_prepacked_forward", lambda module, rows, dtype: lambda x: torch.zeros(8, 24))
    assert not _can_prepack.__wrapped__(torch.bfloat16)


def test_probing_for_prepacked_weights_draws_no_random_numbers():
    before = torch.get_rng_state()
    for dtype in (torch.float32, torch.bfloat16):
        _can_prepack.__wrapped__(dtype)
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_are_restored_after_an_error():
    policy = tiny_gpt2()
    with pytest.raises(KeyError), prepacked_weights(policy, 4):
        raise KeyError
    assert not any("forward" in vars(module) for module in policy.modules())


def test_a_c_library_without_mallopt_raises_no_error(monkeypatch):
    monkeypatch.setattr(kernels.ctypes, "CDLL", lambda name: object())
    kernels.keep_freed_memory.__wrapped__()
