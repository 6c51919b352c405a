"""Probes find out what a model supports, once, and leave it as it was."""

import torch
from torch import nn
from transformers import OPTConfig, OPTForCausalLM

from rlhf.engine import support
from rlhf.engine.support import supports_packing, supports_pruning
from tests.conftest import tiny_gpt2, tiny_llama
from tests.engine.batches import SPECIAL, assert_batch_equals_each_sequence_alone


def test_a_model_is_probed_once_in_eval_mode_and_keeps_its_own_mode(monkeypatch):
    policy, modes = tiny_llama().train(), []
    original = support._packing_agrees
    monkeypatch.setattr(support, "_packing_agrees", lambda model: modes.append(model.training) or original(model))
    assert supports_packing(policy) and supports_packing(policy)
    assert modes == [False]
    assert policy.training


def test_a_model_without_a_feed_forward_module_does_not_support_pruning():
    config = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64}
    policy = OPTForCausalLM(OPTConfig(**config, **SPECIAL, word_embed_proj_dim=32, init_std=0.2)).eval()
    assert_batch_equals_each_sequence_alone(policy)
    assert not supports_pruning(policy)


class TokenMixing(nn.Module):
    """A feed-forward block that mixes tokens."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.inner(states) + states.mean(dim=1, keepdim=True)


def test_a_model_whose_feed_forward_block_mixes_tokens_does_not_support_pruning():
    policy = tiny_gpt2().eval()
    policy.transformer.h[-1].mlp = TokenMixing(policy.transformer.h[-1].mlp)
    assert not supports_pruning(policy)
