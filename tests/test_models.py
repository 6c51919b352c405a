"""Models are loaded and saved as plain Hugging Face models, and what is missing or unsuitable is refused."""

import copy
import json

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    PhiConfig,
)

from rlhf import InputError
from rlhf.engine import selected_states, supports_packing
from rlhf.models import (
    ValueHead,
    device,
    load_policy,
    load_scorer,
    max_prompt_length,
    new_policy,
    new_scorer,
    stop_token_ids,
)
from rlhf.reward import set_normalisation
from rlhf.run.placement import freeze
from rlhf.tokens import load_tokenizer
from tests.conftest import scorer_of, tiny_gpt2
from tests.families import tiny_model


@pytest.fixture
def folder(tmp_path, policy, tokenizer):
    """The folder of a policy and its tokenizer."""
    policy.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# --- policies ---------------------------------------------------------------------------------------------------------


def test_a_new_policy_has_the_given_size_and_no_dropout(tokenizer):
    model = new_policy(tokenizer, layers=2, width=16, heads=2, context=24, initializer_range=0.1)
    assert (model.config.n_layer, model.config.n_embd, model.config.n_positions) == (2, 16, 24)
    special = (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id)
    assert special == (None, tokenizer.eos_token_id, tokenizer.pad_token_id)  # GPT-2's bos would be out of range
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
    with pytest.raises(InputError, match="response_length 24 leaves no room"):
        max_prompt_length(model, 24)


def test_a_saved_policy_generates_with_transformers_alone(folder):
    loaded = load_policy(folder, load_tokenizer(folder))
    loaded.save_pretrained(folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(["a fox and", "the quick brown fox"], return_tensors="pt", padding=True)
    assert model.generate(**inputs, max_new_tokens=4).shape[0] == 2
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_real_weights_of_another_family_load_and_generate(shared):
    source = shared / "models" / "stories260K"
    tokenizer = load_tokenizer(source)
    policy = load_policy(source, tokenizer)
    assert isinstance(policy.config, LlamaConfig)
    ids = policy.generate(**tokenizer("Once upon a", return_tensors="pt"), max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(ids[0], skip_special_tokens=True).startswith("Once upon a time")


def test_responses_stop_at_the_eos_of_the_tokenizer_and_at_those_of_the_model(tokenizer):
    model = tiny_gpt2()
    model.generation_config.eos_token_id = [7, 9]
    assert stop_token_ids(model, tokenizer) == [tokenizer.eos_token_id, 7, 9]


@pytest.mark.parametrize(("accelerator", "used"), [(None, "cpu"), ("mps", "cpu"), ("cuda", "cuda")])
def test_models_run_on_the_accelerator_unless_it_lacks_double_precision(monkeypatch, accelerator, used):
    result = None if accelerator is None else torch.device(accelerator)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: result)
    assert device().type == used


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.6}, {"do_sample": False, "top_p": 0.9}, {"num_beams": 1, "length_penalty": 0.5}]
)
def test_a_model_whose_generation_settings_contradict_each_other_is_saved_and_keeps_its_special_tokens(
    folder, settings
):
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [0, 7], "bos_token_id": 5, **settings}))
    tokenizer = load_tokenizer(folder)
    load_policy(folder, tokenizer).save_pretrained(folder)
    saved = json.loads(path.read_text())
    assert not settings.keys() & saved.keys()
    assert saved["bos_token_id"] == 5 and {0, 7} <= set(saved["eos_token_id"])


# --- added tokens -----------------------------------------------------------------------------------------------------


def test_a_tokenizer_whose_pad_is_its_eos_gets_another_pad_and_the_model_an_embedding_for_it(tmp_path, tokenizer):
    model = tiny_gpt2(vocab_size=len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    policy = load_policy(tmp_path, loaded)
    assert loaded.pad_token_id != loaded.eos_token_id
    assert policy.get_input_embeddings().num_embeddings >= len(loaded)
    assert policy.config.pad_token_id == loaded.pad_token_id


def test_the_embedding_of_an_added_token_is_the_mean_of_the_others_in_policies_and_scorers(folder):
    """And therefore the same at each loading."""
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"<{i}>" for i in range(300)])
    first, second = (load_policy(folder, tokenizer).get_input_embeddings().weight for _ in range(2))
    new_scorer(folder, load_tokenizer(folder)).save_pretrained(folder / "scorer")
    new, loaded = (
        scorer.model.get_input_embeddings().weight
        for scorer in (new_scorer(folder, tokenizer), load_scorer(folder / "scorer", tokenizer))
    )
    original = load_policy(folder, load_tokenizer(folder)).get_input_embeddings().weight
    size = len(original)
    assert len(first) == len(tokenizer) > size
    for extended in (first, second, new, loaded):
        assert torch.equal(extended[:size], original)
        torch.testing.assert_close(extended[size:], original.mean(dim=0).expand(len(first) - size, -1))


def test_an_added_token_has_the_mean_row_and_bias_in_an_untied_output_layer(tokenizer, tmp_path):
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    config = PhiConfig(vocab_size=400, **size, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0)
    model = AutoModelForCausalLM.from_config(config)
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(tmp_path)
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens([f"<{i}>" for i in range(300)])
    head, original = load_policy(tmp_path, larger).get_output_embeddings(), model.lm_head
    for extended, old in ((head.weight, original.weight), (head.bias, original.bias)):
        assert torch.equal(extended[:400], old)
        torch.testing.assert_close(extended[400:], old.mean(dim=0).expand_as(extended[400:]))


def test_rows_of_an_embedding_beyond_the_tokens_are_kept_and_never_sampled(tmp_path, tokenizer):
    tiny_gpt2(vocab_size=len(tokenizer) + 64).save_pretrained(tmp_path)
    policy = load_policy(tmp_path, tokenizer)
    ids = torch.arange(2, 42).view(4, 10)
    logits = selected_states(policy, ids, torch.ones_like(ids), torch.arange(40)).logits(slice(40))
    assert policy.get_input_embeddings().num_embeddings == len(tokenizer) + 64 == logits.shape[1]
    assert logits[:, : len(tokenizer)].isfinite().all() and logits[:, len(tokenizer) :].isneginf().all()


# --- scorers ----------------------------------------------------------------------------------------------------------


def test_a_saved_reward_model_gives_the_same_scores_with_transformers_alone(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    scorer = new_scorer(folder, tokenizer)
    scorer.save_pretrained(tmp_path / "reward")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    ids = torch.tensor([[5, 6, 7]])
    ours = load_scorer(tmp_path / "reward")(ids, torch.ones_like(ids))[-1]
    torch.testing.assert_close(ours, plain(input_ids=ids).logits[0, 0])


def test_the_head_of_a_new_scorer_has_the_published_standard_deviation(folder):
    heads = torch.cat([new_scorer(folder, load_tokenizer(folder)).model.score.weight.detach() for _ in range(100)])
    assert float(heads.std()) == pytest.approx((heads.shape[1] + 1) ** -0.5, rel=0.05)


def test_training_that_starts_from_a_reward_model_starts_from_its_scores(folder, tmp_path):
    tokenizer, ids = load_tokenizer(folder), torch.tensor([[5, 6, 7]])
    scorer = new_scorer(folder, tokenizer)
    set_normalisation(scorer, 0.3, 2.0)
    scorer.save_pretrained(tmp_path / "reward")
    again = new_scorer(tmp_path / "reward", tokenizer)
    torch.testing.assert_close(again(ids, torch.ones_like(ids)), scorer(ids, torch.ones_like(ids)))


def test_a_value_head_saved_with_its_trunk_gives_the_same_values(policy, tmp_path):
    head = ValueHead(policy.config.hidden_size)
    torch.nn.init.normal_(head.score.weight)
    head.save_pretrained(tmp_path, policy)
    ids = torch.tensor([[5, 6, 7, 8]])
    hidden = policy(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(load_scorer(tmp_path)(ids, torch.ones_like(ids)), head(hidden)[0], atol=1e-5, rtol=1e-5)


def test_a_new_value_head_gives_zero():
    assert ValueHead(8)(torch.randn(2, 3, 8)).eq(0).all()


# --- unsuitable folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors", "config.json"])
def test_a_folder_without_a_required_file_is_named_in_the_error(folder, file):
    (folder / file).unlink()
    if file == "tokenizer.json":
        (folder / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match=str(folder)):
        load_policy(folder, load_tokenizer(folder))


def test_a_model_that_counts_padding_as_positions_is_refused_by_name(folder, tokenizer):
    config = AutoConfig.for_model(
        "bart", vocab_size=400, d_model=32, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=32,
        encoder_layers=1, encoder_attention_heads=4, encoder_ffn_dim=32, init_std=0.2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with pytest.raises(InputError, match="BartForCausalLM is not supported: sampling .* changes its log-prob"):
        load_policy(folder, tokenizer)
    warnings: list[str] = []
    load_policy(folder, tokenizer, warn=warnings.append)  # right padding, as in SFT, changes nothing
    (warning,) = warnings
    assert warning.startswith("warning: comparisons, ppo, samples and evaluate will refuse this model: BartForCausalLM")
    with pytest.raises(InputError, match="BartForSequenceClassification is not supported.*can't find its embedding"):
        new_scorer(folder, tokenizer)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("roberta", "a right-padded batch changes its log-probabilities.*counts padding as positions"),
        ("xlnet", "a later token changes its log-probabilities.*not causal"),
    ],
)
def test_a_model_that_would_be_trained_on_wrong_log_probabilities_is_refused_by_every_stage(
    folder, tokenizer, family, reason
):
    tiny_model(family).save_pretrained(folder)
    with pytest.raises(InputError, match=reason):
        load_policy(folder, tokenizer, warn=print)


def test_a_policy_is_refused_as_a_reward_model_and_a_reward_model_as_a_policy(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    with pytest.raises(InputError, match="is not a reward model: it has no score head"):
        load_scorer(folder)
    new_scorer(folder, tokenizer).save_pretrained(tmp_path / "reward")
    load_scorer(tmp_path / "reward")
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    config = AutoConfig.for_model(**config | {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}})
    two_labels = AutoModelForSequenceClassification.from_config(config)
    two_labels.save_pretrained(tmp_path / "two")
    with pytest.raises(InputError, match="a reward model has one label"):
        load_scorer(tmp_path / "two")
    with pytest.raises(InputError, match="is a reward or value model"):
        load_policy(tmp_path / "reward", tokenizer)


def test_a_model_with_missing_weights_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    missing = sorted(name for name in weights if "norm" in name or "ln_" in name)[0]
    rest = {name: w for name, w in weights.items() if name != missing}
    save_file(rest, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="is incomplete: it lacks .*(norm|ln_)"):
        load_policy(folder, load_tokenizer(folder))


# --- frozen models ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("another_precision")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_freezing_changes_no_bit_of_the_results_and_stores_rounded_matrices_under_mixed_precision_only(
    make_policy, precision
):
    accelerator, ids = Accelerator(mixed_precision=precision), torch.arange(2, 42).view(4, 10)
    accelerator.native_amp = precision != "no"  # Accelerate leaves it off for fp16 on a CPU
    mask, last = torch.ones_like(ids), torch.arange(9, 40, 10)
    policy, scorer = make_policy().eval(), scorer_of(make_policy().eval())

    def results() -> list[torch.Tensor]:
        # each in a new context: torch caches rounded weights within one
        with torch.no_grad(), accelerator.autocast():
            return [selected_states(policy, ids, mask, last - 1).logits(slice(4)), scorer(ids, mask, last)]

    before, size = results(), weight_bytes(policy)
    assert (freeze(policy, accelerator), freeze(scorer, accelerator)) == (policy, scorer)
    assert all(torch.equal(one, other) for one, other in zip(results(), before, strict=True))
    # a model that was never probed: freezing probes it before it rounds its matrices
    assert supports_packing(freeze(make_policy().eval(), accelerator)) == supports_packing(policy)
    assert not any(p.requires_grad for p in (*policy.parameters(), *scorer.parameters()))
    assert policy.get_input_embeddings().weight.dtype == scorer.model.score.weight.dtype == torch.float32
    assert (weight_bytes(policy) < size) == (precision != "no")


def weight_bytes(model) -> int:
    return sum(p.nbytes for p in model.parameters())
