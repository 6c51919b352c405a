"""Every causal language model of transformers, as a model of two narrow layers with random weights."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

ROWS = 320  # rows of the embedding, more than a tokenizer of the tests has tokens


def _sizes(value: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


# the values of attributes, by name
SIZES: dict[str, Any] = {
    **_sizes(2, "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers"),
    **_sizes(32, "hidden_size n_embd d_model embedding_size embed_dim word_embed_proj_dim dim_model hidden_dim"),
    **_sizes(4, "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads"),
    **_sizes(32, "intermediate_size ffn_dim n_inner dim_ff ffn_hidden_size decoder_ffn_dim encoder_ffn_dim lru_width"),
    **_sizes(8, "head_dim d_head qk_nope_head_dim v_head_dim global_head_dim attention_head_dim hidden_size_per_layer_input"),
    **_sizes(4, "num_experts num_local_experts n_routed_experts moe_num_experts rotary_dim"),
    **_sizes(2, "num_experts_per_tok moe_topk moe_k top_k_experts num_experts_per_token"),
    **_sizes(16, "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size"),
    **_sizes(64, "max_position_embeddings n_positions max_seq_len seq_length max_target_positions"),
    **_sizes(0.2, "initializer_range init_std initializer_std std"),
    **_sizes(8, "mamba_n_heads mamba_d_head mamba_d_state mamba_num_heads mamba_head_dim ssm_state_size state_size"),
    **_sizes(8, "n_mamba_heads linear_key_head_dim linear_value_head_dim kv_lora_rank"),
    **_sizes(16, "mamba_chunk_size q_lora_rank"),
    **_sizes(1, "n_group topk_group first_k_dense_replace n_shared_experts pad_token_id"),
    **_sizes(0, "bos_token_id eos_token_id num_kv_shared_layers"),
    "vocab_size": ROWS, "n_words": ROWS, "num_key_value_heads": 2, "qk_rope_head_dim": 4, "qk_head_dim": 12, "sliding_window": 6,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "mamba_d_ssm": 64,
}  # fmt: skip
SET_IF_NONE = {"bos_token_id", "eos_token_id", "pad_token_id", "n_routed_experts", "n_shared_experts", "n_group"}
SET_IF_NONE |= {"topk_group", "num_experts_per_tok"}

# of configurations that need other values, for example for layers of both kinds
OPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 6},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "nemotron_h": {"layers_block_type": ["mamba", "attention"]},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "attention_window_size": 6},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "hybrid_layer_ids": [1]},
    "zaya": {"num_experts_per_tok": 1},
}


def model_types() -> list[str]:
    """The model types of `AutoModelForCausalLM`."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A configuration of two narrow layers, of different kinds if the family has more than one kind."""
    defaults = config_class()
    present = vars(defaults)
    values = {name: size for name, size in SIZES.items() if name in present}
    values = {n: size for n, size in values.items() if present[n] is not None or n in SET_IF_NONE}
    if "is_decoder" in present:
        values["is_decoder"] = True
    if "kv_lora_rank" in values:  # multi-head latent attention
        values = {**values, "num_key_value_heads": 4, **({"head_dim": 4} if "head_dim" in values else {})}
    if kinds := present.get("layer_types"):
        values["layer_types"] = [kinds[0], next((kind for kind in kinds if kind != kinds[0]), kinds[0])]
    for name in config_class.sub_configs:
        if isinstance(part := present.get(name), PreTrainedConfig):
            values[name] = tiny_config(type(part))
    return config_class(**values | OPTIONS.get(config_class.model_type, {}))


def tiny_model(model_type: str) -> PreTrainedModel:
    """A random model. Raises errors of many types if this configuration makes none."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(CONFIG_MAPPING[model_type])).eval()
    with torch.no_grad():
        model(input_ids=torch.tensor([[5, 6, 7]]))
    return model
