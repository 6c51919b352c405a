"""A padded batch, models with unusual attention or logits, and the comparison of a batch with each sequence alone."""

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPTNeoConfig, MistralConfig

from rlhf.engine.forward import selected_states

SEQUENCES = [[385, 328, 261, 376, 280, 294, 300], [261, 376], [291, 280, 294]]
ALL_TOKENS = torch.arange(12)  # the indices of their tokens

SIZES = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}


def unusual_policy(name: str) -> torch.nn.Module:
    """A model whose attention is not plain causal attention, or whose logits are not a plain product."""
    configs = {
        "sliding window": lambda: MistralConfig(**SIZES, **SPECIAL, **HEADS, sliding_window=3),
        "softcapping": lambda: Gemma2Config(
            **SIZES, **SPECIAL, **HEADS, head_dim=8, sliding_window=3, final_logit_softcapping=5.0
        ),
        "custom attention": lambda: GPTNeoConfig(
            vocab_size=400, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
            window_size=3, initializer_range=0.2, **SPECIAL,
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(configs[name]()).eval()


def padded_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (3, 9) of the sequences, with padding on both sides."""
    width = max(map(len, SEQUENCES)) + 2
    input_ids, mask = torch.ones(len(SEQUENCES), width, dtype=torch.long), torch.zeros(len(SEQUENCES), width).long()
    for row, ids in enumerate(SEQUENCES):
        start = min(row, width - len(ids))
        input_ids[row, start : start + len(ids)], mask[row, start : start + len(ids)] = torch.tensor(ids), 1
    return input_ids, mask


def assert_batch_equals_each_sequence_alone(policy: torch.nn.Module) -> None:
    """Compares hidden states and logits of the batch with the model's own forward pass of each sequence."""
    alone = [policy(input_ids=torch.tensor([ids]), output_hidden_states=True) for ids in SEQUENCES]
    hidden = torch.cat([output.hidden_states[-1][0] for output in alone])
    logits = torch.cat([output.logits[0] for output in alone])
    for index in (ALL_TOKENS, torch.tensor([0, 5, 11])):
        states = selected_states(policy, *padded_batch(), index)
        assert states.ids.tolist() == sum(SEQUENCES, [])
        torch.testing.assert_close(states.hidden, hidden[index], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(states.logits(slice(1, 3)), logits[index[1:3]], atol=1e-4, rtol=1e-4)
