"""Small random models of many families: sampling and updates give the log-probabilities of transformers."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf import InputError
from rlhf.engine.kernels import optimize
from rlhf.engine.logprobs import token_logprobs
from rlhf.engine.support import supports_packing
from rlhf.rollout import generate, response_logprobs
from rlhf.tokens import pad

SIZE = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 16}
# name -> model type, options beside SIZE, whether it supports packing
FAMILIES = {
    "Llama": ("llama", {}, True),
    "Qwen3": ("qwen3", {"head_dim": 8}, True),
    "Qwen3, mixture of experts": ("qwen3_moe", {"head_dim": 8, **EXPERTS}, True),
    "GPT-NeoX": ("gpt_neox", {}, True),
    "Phi, output layer with a bias": ("phi", {}, True),
    "Gemma": ("gemma", {"head_dim": 8}, True),
    "Cohere, scaled logits": ("cohere", {"logit_scale": 0.25}, True),
    "Granite, scaled logits, residuals and attention": ("granite", {"logits_scaling": 4.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3}, True),
    "OPT, projection after the last layer": ("opt", {"ffn_dim": 32, "word_embed_proj_dim": 16, "init_std": 0.2}, True),
    "SmolLM3, layer without positions": ("smollm3", {"no_rope_layers": [1, 0]}, True),
    "Mistral, sliding window": ("mistral", {"sliding_window": 6}, False),
    # does not pass its window to the attention function
    "Qwen2, mixture of experts, sliding window": ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2, **EXPERTS}, False),
    "Gemma 2, sliding windows, softcapping": ("gemma2", {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}, False),
    "GPT-OSS, sinks, sliding windows": ("gpt_oss", {"head_dim": 8, "sliding_window": 6, "num_local_experts": 4, "num_experts_per_tok": 2}, False),
    "Falcon, ALiBi": ("falcon", {"alibi": True}, False),
    "Bloom, ALiBi": ("bloom", {"n_layer": 2, "n_head": 4}, False),
    "DeepSeek-V2, values narrower than keys": (
        "deepseek_v2",
        {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
         "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1},
        False,
    ),
    # their caches hold a recurrent state beside keys and values
    "Falcon-H1, attention and Mamba in each layer": ("falcon_h1", {"mamba_d_ssm": 64, "head_dim": 8, **MAMBA}, False),
    "Bamba, attention or Mamba in each layer": ("bamba", {"attn_layer_indices": [1], **MAMBA}, False),
}  # fmt: skip
# enough rows that finished ones are dropped, at different steps
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [12, 13], [20, 21, 22, 23]] * 8


def random_model(model_type: str, options: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZE | options)).eval()


def sample(model):
    return generate(
        model, *pad(PROMPTS, 1, "left"), response_length=14, temperature=1.0, stop_ids=list(range(20)), pad_id=1,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_of_sampling_and_of_updates_are_those_of_each_response_alone_in_transformers(family):
    model_type, options, packable = FAMILIES[family]
    model, original = random_model(model_type, options), random_model(model_type, options)
    optimize(model)
    responses = sample(model)
    assert responses.finished.any() and len(responses.lengths.unique()) > 5
    responses.prompt_index = torch.tensor([0, 1, 1, 2] * 8)
    assert supports_packing(model) is packable
    with torch.no_grad():
        updated, _ = response_logprobs(model, responses, 1.0)
        for row, length in enumerate(responses.lengths.tolist()):
            ids = responses.input_ids[row][responses.attention_mask[row].bool()][None]
            expected = token_logprobs(original(input_ids=ids).logits[:, -length - 1 : -1], ids[:, -length:], 1.0)[0]
            torch.testing.assert_close(responses.logprobs[row, :length], expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(updated[row, :length], expected, atol=1e-4, rtol=1e-4)


def test_a_model_without_keys_and_values_is_refused():
    model = random_model("mamba", {})
    with pytest.raises(InputError, match="MambaForCausalLM has no cache of keys and values"):
        sample(model)
