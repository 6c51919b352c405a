"""Tiny models and tokenizers for the tests: made here, on the CPU, from a seed, without a network."""

import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"

from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import settings
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, LlamaConfig

import stages  # noqa: F401  its environment variables
from rlhf.models import Scorer, new_tokenizer
from tests.pipeline import make

SHARED = Path(os.environ.get("RLHF_SHARED", Path(__file__).parents[2] / "shared" / "data"))
VOCABULARY = 400

# the same examples in every run, however slow the machine: what a test finds today it finds tomorrow
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real input. The test is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip(f"no real input at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE of up to 400 tokens; eos and pad are tokens of their own."""
    text = "the quick brown fox jumps over the lazy dog . a story about a fox and a dog ? yes ! no , 1 2 3 4 5"
    return new_tokenizer([text] * 20, VOCABULARY)


def tiny_gpt2(vocab_size: int = VOCABULARY, dropout: float = 0.0, **kwargs) -> torch.nn.Module:
    """GPT-2, with absolute positions: left padding shows."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, bos_token_id=0, eos_token_id=0, pad_token_id=1,
        **kwargs,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def tiny_llama(vocab_size: int = VOCABULARY, dropout: float = 0.0) -> torch.nn.Module:
    """Llama, with rotary positions and grouped heads; its attention dropout is no module."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2, attention_dropout=dropout,
        bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def real_llama(folder: Path, dropout: float = 0.0) -> torch.nn.Module:
    """A Llama that has learned to tell stories, with the special tokens of the tests."""
    return AutoModelForCausalLM.from_pretrained(
        folder, attention_dropout=dropout, bos_token_id=0, eos_token_id=0, pad_token_id=1
    )


@pytest.fixture(params=["gpt2", "llama", "stories260K"])
def make_policy(request):
    """A function that makes a small model: of GPT-2's kind, of Llama's kind, and a Llama with real weights."""
    if request.param == "stories260K":
        return partial(real_llama, request.getfixturevalue("shared") / "models" / request.param)
    return {"gpt2": tiny_gpt2, "llama": tiny_llama}[request.param]


@pytest.fixture
def policy(make_policy):
    return make_policy().eval()


def scorer_of(policy) -> Scorer:
    """A scorer as transformers makes it, on a copy of the policy's trunk, with a head that is random."""
    policy.config.num_labels = 1
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(policy.config).eval()
    model.base_model.load_state_dict(policy.base_model.state_dict())
    torch.nn.init.normal_(model.score.weight, std=0.1)
    return Scorer(model)


@pytest.fixture
def another_precision():
    """Accelerate keeps one precision for the whole process; this lets a test have its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A toy run that `make ppo` has made, and what it printed."""
    run = tmp_path_factory.mktemp("runs") / "toy"
    return run, make("ppo", run=run)


@pytest.fixture
def run(made, tmp_path):
    """A copy of it that a test may change."""
    shutil.copytree(made[0], tmp_path / "toy")
    return tmp_path / "toy"
