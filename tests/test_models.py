"""Loading and saving: what is written is plain Hugging Face, and what is missing is said."""

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

from rlhf.errors import InputError
from rlhf.forward import packs, states
from rlhf.models import (
    ValueHead,
    device,
    frozen,
    load_policy,
    load_scorer,
    load_tokenizer,
    new_policy,
    new_scorer,
    new_tokenizer,
    room_for_prompt,
    same_words,
    stop_token_ids,
)
from tests.conftest import scorer_of, tiny_gpt2


@pytest.fixture
def folder(tmp_path, policy, tokenizer):
    policy.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_new_tokenizer_gives_back_any_text_and_the_same_one_each_time():
    text = ["Anna has a cat. Ünïcödé 你好 🦊\n\ttabs"] * 3
    first, second = (new_tokenizer(text, 300) for _ in range(2))
    assert first.decode(first(text[0]).input_ids) == text[0]
    assert first.get_vocab() == second.get_vocab()
    assert 256 + 2 < len(first) <= 300  # every byte, eos, pad and some merges


def test_a_tokenizer_whose_pad_is_its_eos_gets_a_pad_of_its_own_and_the_model_grows(tmp_path, tokenizer):
    model = tiny_gpt2(vocab_size=len(tokenizer))
    tokenizer = AutoTokenizer.from_pretrained(_saved(tokenizer, tmp_path))
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    policy = load_policy(tmp_path, loaded)
    assert loaded.pad_token_id != loaded.eos_token_id
    assert policy.get_input_embeddings().num_embeddings >= len(loaded)
    assert policy.config.pad_token_id == loaded.pad_token_id


def _saved(tokenizer, path):
    tokenizer.save_pretrained(path)
    return path


def test_policy_and_tokenizer_load_and_generate_with_transformers_alone(folder):
    loaded = load_policy(folder, load_tokenizer(folder))
    loaded.save_pretrained(folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(["a fox and", "the quick brown fox"], return_tensors="pt", padding=True)
    assert model.generate(**inputs, max_new_tokens=4).shape[0] == 2
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_a_reward_model_loads_with_transformers_alone_and_scores_alike(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    scorer = new_scorer(folder, tokenizer)
    scorer.save_pretrained(tmp_path / "reward")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    ids = torch.tensor([[5, 6, 7]])
    ours = load_scorer(tmp_path / "reward")(ids, torch.ones_like(ids))[-1]
    torch.testing.assert_close(ours, plain(input_ids=ids).logits[0, 0])


def test_the_head_of_a_new_scorer_has_the_published_spread(folder):
    heads = torch.cat([new_scorer(folder, load_tokenizer(folder)).model.score.weight.detach() for _ in range(100)])
    assert float(heads.std()) == pytest.approx((heads.shape[1] + 1) ** -0.5, rel=0.05)


def test_a_value_head_saved_with_its_trunk_gives_the_same_values(policy, tmp_path):
    head = ValueHead(policy.config.hidden_size)
    torch.nn.init.normal_(head.score.weight)
    head.save_pretrained(tmp_path, policy)
    ids = torch.tensor([[5, 6, 7, 8]])
    hidden = policy(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(load_scorer(tmp_path)(ids, torch.ones_like(ids)), head(hidden)[0], atol=1e-5, rtol=1e-5)


def test_a_value_head_starts_from_zero():
    assert ValueHead(8)(torch.randn(2, 3, 8)).eq(0).all()


def test_responses_stop_at_the_tokenizers_eos_and_at_what_the_model_adds(tokenizer):
    model = tiny_gpt2()
    model.generation_config.eos_token_id = [7, 9]
    assert stop_token_ids(model, tokenizer) == [tokenizer.eos_token_id, 7, 9]


def test_a_new_policy_has_the_size_asked_for_and_no_dropout(tokenizer):
    model = new_policy(tokenizer, layers=2, width=16, heads=2, context=24, initializer_range=0.1)
    assert (model.config.n_layer, model.config.n_embd, model.config.n_positions) == (2, 16, 24)
    special = (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id)
    assert special == (None, tokenizer.eos_token_id, tokenizer.pad_token_id)  # GPT-2's own bos would be out of range
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
    with pytest.raises(InputError, match="response_length 24 leaves no room"):
        room_for_prompt(model, 24)


def test_width_that_heads_can_not_share_is_refused(tokenizer):
    with pytest.raises(InputError, match="width 20 can't be shared by 3 heads"):
        new_policy(tokenizer, layers=1, width=20, heads=3, context=8, initializer_range=0.1)


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors", "config.json"])
def test_a_folder_that_lacks_a_file_is_refused_by_name(folder, file):
    (folder / file).unlink()
    if file == "tokenizer.json":
        (folder / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match=str(folder)):
        load_policy(folder, load_tokenizer(folder))


def test_an_id_that_is_neither_a_folder_nor_on_the_hub_is_refused(tmp_path):
    with pytest.raises(InputError, match="no tokenizer"):
        load_tokenizer(tmp_path / "nothing")


def test_a_policy_is_no_reward_model_and_a_reward_model_no_policy(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    with pytest.raises(InputError, match="is no reward model: it has no head"):
        load_scorer(folder)
    new_scorer(folder, tokenizer).save_pretrained(tmp_path / "reward")
    load_scorer(tmp_path / "reward")
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    config = AutoConfig.for_model(**config | {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}})
    two = AutoModelForSequenceClassification.from_config(config)
    two.save_pretrained(tmp_path / "two")
    with pytest.raises(InputError, match="a reward model has one label"):
        load_scorer(tmp_path / "two")
    with pytest.raises(InputError, match="is a reward or value model"):
        load_policy(tmp_path / "reward", tokenizer)


def test_a_model_that_lacks_weights_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    lost = sorted(name for name in weights if "norm" in name or "ln_" in name)[0]
    save_file({name: w for name, w in weights.items() if name != lost}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="no whole model: it lacks .*(norm|ln_)"):
        load_policy(folder, load_tokenizer(folder))


def test_the_embedding_of_a_gained_token_is_the_mean_of_the_old_each_time_in_policies_and_scorers(folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"<{i}>" for i in range(300)])
    first, second = (load_policy(folder, tokenizer).get_input_embeddings().weight for _ in range(2))
    new_scorer(folder, load_tokenizer(folder)).save_pretrained(folder / "scorer")
    scorer, loaded = (
        made.model.get_input_embeddings().weight
        for made in (new_scorer(folder, tokenizer), load_scorer(folder / "scorer", tokenizer))
    )
    known = load_policy(folder, load_tokenizer(folder)).get_input_embeddings().weight
    assert len(first) == len(tokenizer) > len(known)
    for grown in (first, second, scorer, loaded):
        assert torch.equal(grown[: len(known)], known)
        torch.testing.assert_close(grown[len(known) :], known.mean(dim=0).expand(len(first) - len(known), -1))


@pytest.mark.parametrize(("found", "used"), [(None, "cpu"), ("mps", "cpu"), ("cuda", "cuda")])
def test_models_that_answer_go_to_the_accelerator_unless_it_lacks_double_precision(monkeypatch, found, used):
    found = None if found is None else torch.device(found)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    assert device().type == used


def test_so_are_the_rows_and_biases_of_an_output_layer_of_its_own(tokenizer, tmp_path):
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    config = PhiConfig(vocab_size=400, **size, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0)
    model = AutoModelForCausalLM.from_config(config)
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(tmp_path)
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens([f"<{i}>" for i in range(300)])
    head, known = load_policy(tmp_path, larger).get_output_embeddings(), model.lm_head
    for grown, old in ((head.weight, known.weight), (head.bias, known.bias)):
        assert torch.equal(grown[:400], old)
        torch.testing.assert_close(grown[400:], old.mean(dim=0).expand_as(grown[400:]))


def test_tokenizers_are_the_same_whatever_their_special_tokens_and_not_with_other_words(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.add_special_tokens({"pad_token": "<another pad>"})
    assert same_words(tokenizer, other)
    assert not same_words(tokenizer, new_tokenizer(["cats and dogs"] * 9, 300))


def test_real_weights_of_another_family_load_and_generate(shared):
    source = shared / "models" / "stories260K"
    tokenizer = load_tokenizer(source)
    policy = load_policy(source, tokenizer)
    assert isinstance(policy.config, LlamaConfig)
    ids = policy.generate(**tokenizer("Once upon a", return_tensors="pt"), max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(ids[0], skip_special_tokens=True).startswith("Once upon a time")


# --- models that only answer ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("another_precision")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_frozen_model_answers_alike_to_the_bit_and_holds_rounded_matrices_only_where_they_are_rounded_anyway(
    make_policy, precision
):
    accelerator, ids = Accelerator(mixed_precision=precision), torch.arange(2, 42).view(4, 10)
    mask, last = torch.ones_like(ids), torch.arange(9, 40, 10)
    policy, scorer = make_policy().eval(), scorer_of(make_policy().eval())

    def answers() -> list[torch.Tensor]:
        # in a context of its own: torch keeps weights that it has rounded for as long as one lasts
        with torch.no_grad(), accelerator.autocast():
            return [states(policy, ids, mask, last - 1).logits(slice(4)), scorer(ids, mask, last)]

    before, size = answers(), weight_bytes(policy)
    assert (frozen(policy, accelerator), frozen(scorer, accelerator)) == (policy, scorer)
    assert all(torch.equal(one, other) for one, other in zip(answers(), before, strict=True))
    # nobody has asked this one anything before: what it allows is found out before its matrices are rounded
    assert packs(frozen(make_policy().eval(), accelerator)) == packs(policy)
    assert not any(p.requires_grad for p in (*policy.parameters(), *scorer.parameters()))
    assert policy.get_input_embeddings().weight.dtype == scorer.model.score.weight.dtype == torch.float32
    assert (weight_bytes(policy) < size) == (precision == "bf16")


def weight_bytes(model) -> int:
    return sum(p.nbytes for p in model.parameters())
