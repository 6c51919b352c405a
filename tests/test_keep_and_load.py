"""What is loaded predicts the same as what was saved, and the files hold no code. See docs/papers.md."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf.models import load_policy, load_scorer, new_scorer
from rlhf.reward import set_normalisation
from rlhf.tokens import load_tokenizer
from tests.conftest import tiny_gpt2

TOKENS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])


def trained(model):
    """The model after three steps, so that no weight is that of a new model."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.fixture
def kept(tokenizer, tmp_path):
    """A policy, and the folder to which it was saved with its tokenizer."""
    policy = trained(tiny_gpt2())
    policy.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return policy, tmp_path / "model"


def test_a_loaded_policy_has_the_same_predictions_bit_for_bit_here_and_with_transformers_alone(kept):
    policy, folder = kept
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder).eval()), logits(policy))
    # this package reads the same folder, so its own attention may round differently
    torch.testing.assert_close(logits(load_policy(folder, load_tokenizer(folder))), logits(policy), rtol=0, atol=1e-5)
    again = folder.with_name("again")
    loaded = load_policy(folder, load_tokenizer(folder))
    loaded.save_pretrained(again)
    assert torch.equal(logits(load_policy(again, load_tokenizer(folder))), logits(loaded))


def test_parameters_alone_predict_the_same_in_a_model_that_is_built_from_the_settings(kept):
    policy, folder = kept
    torch.manual_seed(1)
    new = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()
    assert not torch.equal(logits(new), logits(policy))
    parameters = load_file(folder / "model.safetensors")
    missing, unexpected = new.load_state_dict(parameters, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # which is the embedding
    assert torch.equal(logits(new), logits(policy))


def test_a_loaded_reward_model_has_the_same_normalised_scores_bit_for_bit(kept, tmp_path):
    _, folder = kept
    scorer = new_scorer(folder, load_tokenizer(folder))
    set_normalisation(scorer, 0.3, 2.0)
    scorer.save_pretrained(tmp_path / "reward")
    settings = json.loads((tmp_path / "reward" / "config.json").read_text(encoding="utf-8"))
    assert (settings["score_mean"], settings["score_std"]) == (0.3, 2.0)
    mask = torch.ones_like(TOKENS)
    assert torch.equal(load_scorer(tmp_path / "reward")(TOKENS, mask), scorer(TOKENS, mask))


def test_a_file_of_parameters_is_a_header_of_names_and_shapes_and_then_numbers(kept):
    """The format: eight bytes with the length of a JSON header, the header, and the bytes of all tensors."""
    policy, folder = kept
    content = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__")
    shapes = {name: tuple(parameter.shape) for name, parameter in policy.named_parameters()}
    assert {name: tuple(entry["shape"]) for name, entry in header.items()} == shapes
    assert len(content) == 8 + length + 4 * sum(parameter.numel() for parameter in policy.parameters())
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".jinja"}
