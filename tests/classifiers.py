"""A tiny sequence classifier for tests."""

import torch
from transformers import AutoModelForSequenceClassification, GPT2Config, PreTrainedModel


def tiny_classifier(seed: int = 0) -> PreTrainedModel:
    """A GPT-2 with a score head of one label and random weights."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2, num_labels=1,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, pad_token_id=1, eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config).eval()
