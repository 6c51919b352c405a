"""Tiny models and tokenizers for the tests, made from a seed on the CPU, without a network."""

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

import stages  # noqa: F401  sets environment variables
from rlhf.classifiers import Scorer
from rlhf.tokens import new_tokenizer
from stages.common.options import CHAIN
from tests.pipeline import stage

SHARED = Path(os.environ.get("RLHF_SHARED", Path(__file__).parents[2] / "shared" / "data"))
CASES = SHARED.parent / "cases" / "rows"
VOCABULARY = 400

# the same examples in every run, without a time limit: a failure can be repeated on any machine
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real input. Tests that need it are skipped if it does not exist."""
    if not SHARED.is_dir():
        pytest.skip(f"no real input at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of small files as users have them. Tests that need it are skipped if it does not exist."""
    if not CASES.is_dir():
        pytest.skip(f"no cases at {CASES}")
    return CASES


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE of up to 400 tokens; eos and pad are tokens of their own."""
    text = "the quick brown fox jumps over the lazy dog . a story about a fox and a dog ? yes ! no , 1 2 3 4 5"
    return new_tokenizer([text] * 20, VOCABULARY)


def tiny_gpt2(vocab_size: int = VOCABULARY, dropout: float = 0.0, **kwargs) -> torch.nn.Module:
    """GPT-2. Its positions are absolute, so wrong position ids under left padding change the result."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, bos_token_id=0, eos_token_id=0, pad_token_id=1,
        **kwargs,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def tiny_llama(vocab_size: int = VOCABULARY, dropout: float = 0.0) -> torch.nn.Module:
    """Llama, with rotary positions and grouped heads; its attention dropout is not a module."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2, attention_dropout=dropout,
        bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def real_llama(folder: Path, dropout: float = 0.0) -> torch.nn.Module:
    """A Llama trained on short stories, with the special tokens of the tests."""
    return AutoModelForCausalLM.from_pretrained(
        folder, attention_dropout=dropout, bos_token_id=0, eos_token_id=0, pad_token_id=1
    )


@pytest.fixture(params=["gpt2", "llama", "stories260K"])
def make_policy(request):
    """A function that makes a small model: a GPT-2, a Llama, or a Llama with real weights."""
    if request.param == "stories260K":
        return partial(real_llama, request.getfixturevalue("shared") / "models" / request.param)
    return {"gpt2": tiny_gpt2, "llama": tiny_llama}[request.param]


@pytest.fixture
def policy(make_policy):
    return make_policy().eval()


def scorer_of(policy) -> Scorer:
    """A scorer made by transformers: a copy of the policy's trunk with a random head."""
    policy.config.num_labels = 1
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(policy.config).eval()
    model.base_model.load_state_dict(policy.base_model.state_dict())
    torch.nn.init.normal_(model.score.weight, std=0.1)
    return Scorer(model)


@pytest.fixture
def another_precision():
    """Lets a test choose its mixed precision: Accelerate keeps one for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory):
    """The folder of a finished toy run."""
    run = tmp_path_factory.mktemp("runs") / "toy"
    for name in CHAIN:
        stage(name, run=run)
    return run


@pytest.fixture
def run(toy_run, tmp_path):
    """A copy of it that the test may change."""
    shutil.copytree(toy_run, tmp_path / "toy")
    return tmp_path / "toy"
