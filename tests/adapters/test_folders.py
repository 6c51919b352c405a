"""Adapters are saved as PEFT saves them, and read wherever they were saved; PEFT's own loaders are the reference."""

import json
import shutil
import sys

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf import InputError
from rlhf.adapters.folders import base_of
from rlhf.adapters.lora import add_adapter, save_model
from rlhf.adapters.options import LoraOptions
from rlhf.models import load_policy, load_scorer, load_trained, new_scorer, stop_token_ids
from rlhf.scoring.reward_models import check_classifier, reads_token_ids
from rlhf.tokens import load_tokenizer
from tests.conftest import tiny_gpt2, tiny_llama
from tests.trainers import moved

LORA = LoraOptions(lora_r=4)
IDS = torch.arange(5, 17)[None]


@pytest.fixture(params=[tiny_gpt2, tiny_llama])
def base(request, tokenizer, tmp_path):
    """The folder of a model and its tokenizer."""
    folder = tmp_path / "run" / "base"
    request.param(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(base, tokenizer):
    """The folder of an adapter, and the logits of the model that was saved."""
    policy = moved(load_trained(base, tokenizer, LORA, warn=pytest.fail))
    save_model(policy, base.parent / "sft")
    tokenizer.save_pretrained(base.parent / "sft")
    return base.parent / "sft", logits(policy)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def assert_same(result, expected):
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


def test_peft_loads_a_saved_adapter_from_another_folder(adapter, monkeypatch, tmp_path):
    folder, expected = adapter
    monkeypatch.chdir(tmp_path)
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob("model*.safetensors"))
    assert_same(logits(AutoPeftModelForCausalLM.from_pretrained(folder).eval()), expected)
    assert_same(logits(AutoModelForCausalLM.from_pretrained(folder).eval()), expected)


def test_an_adapter_is_loaded_as_a_policy_merged_into_its_base(adapter, tokenizer, base):
    folder, expected = adapter
    policy = load_policy(folder, tokenizer)
    assert_same(logits(policy), expected)
    assert not torch.allclose(logits(load_policy(base, tokenizer)), expected, atol=1e-2)
    assert all(weight.requires_grad for weight in policy.parameters())
    assert load_tokenizer(folder).get_vocab() == tokenizer.get_vocab()


def test_training_continues_from_a_copy_of_the_adapter(adapter, tokenizer):
    folder, expected = adapter
    policy = load_trained(folder, tokenizer, LORA, warn=pytest.fail)
    assert_same(logits(policy), expected)
    assert 0 < sum(w.numel() for w in policy.parameters() if w.requires_grad) < policy.num_parameters() / 3
    with pytest.raises(InputError, match="lora_r is 8, but training starts from the adapter .* has 4: set lora_r to 4"):
        load_trained(folder, tokenizer, LoraOptions(lora_r=8), warn=pytest.fail)


def test_merge_writes_an_ordinary_model(adapter, tokenizer, tmp_path):
    folder, expected = adapter
    save_model(load_trained(folder, tokenizer, LORA, warn=pytest.fail), tmp_path / "merged", merge=True)
    assert "base_fingerprint" not in (tmp_path / "merged" / "config.json").read_text()
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert_same(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()), expected)


def test_a_reward_model_is_an_adapter_with_a_head_and_its_normalisation(adapter, tokenizer):
    folder, _ = adapter
    scorer = new_scorer(folder, tokenizer, LORA)
    moved(scorer.model)
    scorer.config.score_mean, scorer.config.score_std = 0.5, 2.0
    reward = folder.parent / "reward"
    scorer.save_pretrained(reward)
    tokenizer.save_pretrained(reward)
    mask = torch.ones_like(IDS)
    loaded = load_scorer(reward, tokenizer)
    with torch.no_grad():
        scores = scorer(IDS, mask)
        assert_same(loaded(IDS, mask), scores)
        plain = AutoPeftModelForSequenceClassification.from_pretrained(reward, num_labels=1).eval()
        plain.config.pad_token_id = tokenizer.pad_token_id
        assert_same((plain(input_ids=IDS).logits[0] - 0.5) / 2.0, scores[-1:])
    assert check_classifier(reward) == 0 and reads_token_ids(reward, tokenizer)
    with pytest.raises(InputError, match="is a reward or value model: name a language model"):
        load_policy(reward, tokenizer)
    with pytest.raises(InputError, match="is not a reward model: it has no score head"):
        load_scorer(folder, tokenizer)


def test_an_adapter_that_peft_wrote_is_accepted(base, tokenizer):
    """Without a tokenizer, trunk.json and generation_config.json, and with another choice of layers."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, task_type="CAUSAL_LM"))
    folder = base.parent / "theirs"
    moved(model).save_pretrained(folder)
    expected = logits(model)
    assert_same(logits(load_policy(folder, load_tokenizer(folder))), expected)
    assert_same(logits(load_trained(folder, tokenizer, LoraOptions(lora_r=2), warn=pytest.fail)), expected)
    assert stop_token_ids(folder, tokenizer) == stop_token_ids(base, tokenizer)


def test_a_reward_model_that_peft_wrote_is_merged_or_trained_further(base, tokenizer):
    """PEFT's modules_to_save also names a `classifier`, which these models do not have."""
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model = get_peft_model(model, LoraConfig(r=2, task_type="SEQ_CLS"))
    folder = base.parent / "theirs"
    moved(model).save_pretrained(folder)
    expected = logits(model)
    assert_same(logits(load_scorer(folder).model), expected)
    trained = new_scorer(base, tokenizer).model
    add_adapter(trained, folder, None)
    assert_same(logits(trained.eval()), expected)
    assert_same(logits(new_scorer(folder, tokenizer, LoraOptions(lora_r=2, lora_alpha=8)).model.eval()), expected)


def test_a_run_that_was_moved_still_has_its_base(adapter, tokenizer, tmp_path):
    folder, expected = adapter
    shutil.move(folder.parent, tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / "sft"
    assert base_of(moved) == str(tmp_path / "elsewhere" / "base")
    assert_same(logits(load_policy(moved, tokenizer)), expected)


# --- what can't be loaded ---------------------------------------------------------------------------------------------


def test_a_base_that_is_gone_is_named(adapter, tokenizer, base):
    shutil.rmtree(base)
    with pytest.raises(InputError, match=f"sft is an adapter of the model in {base}, which is gone: write where"):
        load_policy(adapter[0], tokenizer)


def test_a_base_that_was_trained_again_is_refused(adapter, tokenizer, base):
    model = AutoModelForCausalLM.from_pretrained(base)
    model.base_model.get_submodule("h" if hasattr(model.base_model, "h") else "layers")[1].mlp.requires_grad_(True)
    for weight in model.parameters():
        weight.data *= 1.001
    model.save_pretrained(base)
    for load in (load_policy, lambda *arguments: load_trained(*arguments, LORA, warn=pytest.fail)):
        with pytest.raises(InputError, match="base has changed since the adapter at .*sft was trained on it"):
            load(adapter[0], tokenizer)


@pytest.mark.parametrize("load", [load_policy, lambda *arguments: load_trained(*arguments, LORA, warn=pytest.fail)])
def test_without_peft_the_error_says_how_to_install_it(adapter, tokenizer, monkeypatch, load):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"LoRA adapters need the package peft: `pip install .\[lora\]`"):
        load(adapter[0], tokenizer)


@pytest.mark.parametrize(
    ("config", "message"),
    [("{", "not readable JSON"), ("{}", "names no model"), (json.dumps({"base_model_name_or_path": ""}), "no model")],
)
def test_a_damaged_configuration_is_named(adapter, tokenizer, config, message):
    (adapter[0] / "adapter_config.json").write_text(config)
    with pytest.raises(InputError, match=f"adapter_config.json .*{message}|{message}"):
        load_policy(adapter[0], tokenizer)


def test_missing_and_damaged_weights_are_named(adapter, tokenizer):
    weights = adapter[0] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="no weights of an adapter that peft can load at .*sft"):
        load_policy(adapter[0], tokenizer)
    weights.unlink()
    with pytest.raises(InputError, match="no weights of an adapter that peft can load at .*sft"):
        load_policy(adapter[0], tokenizer)


def test_a_layer_that_does_not_exist_is_an_error_of_the_options(base, tokenizer):
    with pytest.raises(InputError, match="PEFT can't add adapters to .*nothing_like_it"):
        add_adapter(load_policy(base, tokenizer), base, LoraOptions(lora_r=2, lora_target_modules=["nothing_like_it"]))
