"""Reward models with a tokenizer of their own, against transformers' forward pass of one text without padding."""

import pytest
import torch
from accelerate import Accelerator
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)

from rlhf import InputError
from rlhf.rollout import Responses
from rlhf.scoring import RewardFunctions, RewardModel, check_classifier, reads_token_ids
from rlhf.scoring import reward_models as module
from rlhf.tokens import new_tokenizer

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
FAMILIES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3},
    "llama": {**SMALL, "num_key_value_heads": 2},
    "bert": SMALL,
    "roberta": {**SMALL, "max_position_embeddings": 65},  # position 0 is that of the pad token
    "deberta-v2": {**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 32},
}
DECODERS, ENCODERS = ("gpt2", "llama"), ("bert", "roberta", "deberta-v2")
WORDS = "the quick brown fox jumps over a lazy dog . User Bot Human Assistant : ! yes no \n".split(" ")
TEXTS = ["yes", "the quick brown fox jumps over the lazy dog", "no , a dog . yes", "fox dog " * 12, "the dog"]
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT = [{"role": "user", "content": "yes no"}]


def word_tokenizer(begin: str, end: str, eos: str | None, pad: str | None = "[PAD]") -> PreTrainedTokenizerFast:
    """A tokenizer of words, which puts `begin` before a text and `end` after it."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "</s>"]
    vocabulary = {token: i for i, token in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces = [(token, vocabulary[token]) for token in (begin, end) if token]
    backend.post_processor = TemplateProcessing(single=f"{begin} $A {end}".strip(), special_tokens=pieces)
    known = {"cls_token": "[CLS]", "sep_token": "[SEP]", "eos_token": eos, "pad_token": pad}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", **{name: token for name, token in known.items() if token}
    )


def save(folder, family: str, tokenizer, labels: dict | None = None, **options):
    """A random sequence classifier of a family, with its tokenizer; the model, for the expected scores."""
    torch.manual_seed(0)
    names = labels or {0: "LABEL_0"}
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), **FAMILIES[family], id2label=names, label2id={n: i for i, n in names.items()},
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None, **options,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def tokenizer_of(family: str):
    if family in DECODERS:
        return new_tokenizer([" ".join(WORDS)] * 20, 300)
    return word_tokenizer("[CLS]", "[SEP]", None)


def alone(model, ids: list[int]) -> torch.Tensor:
    """The logits of one sequence without padding, read at its last token by a decoder."""
    model.config.pad_token_id = None
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_transformers_pipeline_on_single_texts(tmp_path, family):
    save(tmp_path, family, tokenizer_of(family))
    classify = pipeline("text-classification", str(tmp_path), function_to_apply="none", device="cpu")
    expected = [classify(text)[0]["score"] for text in TEXTS]
    assert RewardModel(tmp_path).scores(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.01


@pytest.mark.parametrize("tokens", [1, 30, 2**14])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_score_does_not_depend_on_the_texts_beside_it(tmp_path, monkeypatch, family, tokens):
    monkeypatch.setattr(module, "BATCH_TOKENS", tokens)
    save(tmp_path, family, tokenizer_of(family))
    model = RewardModel(tmp_path)
    assert model.scores(TEXTS) == pytest.approx([model.scores([text])[0] for text in TEXTS], abs=1e-5)
    assert model.scores([]) == []


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("pad", ["eos", "none", "own"])
def test_a_decoder_is_read_at_the_last_token_whatever_pads_and_wherever_eos_is(tmp_path, family, pad):
    eos = "</s>"
    tokenizer = word_tokenizer("", "", eos, {"eos": eos, "none": None, "own": "[PAD]"}[pad])
    model = save(tmp_path, family, tokenizer)
    texts = ["yes </s> no </s>", "the dog </s> the quick brown fox", "no </s>", "yes"]
    expected = [alone(model, tokenizer(text).input_ids).item() for text in texts]
    assert RewardModel(tmp_path).scores(texts) == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 4) for score in expected}) == len(texts)


@pytest.mark.parametrize("family", FAMILIES)
def test_of_several_labels_one_is_named_and_its_logit_is_the_score(tmp_path, family):
    tokenizer = tokenizer_of(family)
    model = save(tmp_path, family, tokenizer, {0: "helpful", 1: "harmless", 2: "honest"})
    logits = alone(model, tokenizer("the quick fox").input_ids)
    for index, label in enumerate(("helpful", "harmless", "honest")):
        for name in (label, str(index)):
            score = RewardModel(tmp_path, name).scores(["the quick fox"])
            assert score == pytest.approx([logits[index].item()], abs=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_scores_are_normalised_as_the_configuration_says(tmp_path, family):
    save(tmp_path / "plain", family, tokenizer_of(family))
    save(tmp_path / "scaled", family, tokenizer_of(family), score_mean=0.5, score_std=2.0)
    plain = RewardModel(tmp_path / "plain").scores(TEXTS)
    scaled = RewardModel(tmp_path / "scaled").scores(TEXTS)
    assert scaled == pytest.approx([(score - 0.5) / 2 for score in plain], abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_in_bf16_scores_are_nearly_those_in_fp32(tmp_path, family, another_precision):
    save(tmp_path, family, tokenizer_of(family))
    exact = RewardModel(tmp_path).scores(TEXTS)
    rounded = RewardModel(tmp_path, accelerator=Accelerator(cpu=True, mixed_precision="bf16")).scores(TEXTS)
    assert rounded != exact and rounded == pytest.approx(exact, abs=0.3)


def test_a_head_that_searches_for_eos_reads_texts_one_by_one(tmp_path):
    torch.manual_seed(0)
    tokenizer = word_tokenizer("", "</s>", "</s>")
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    config = AutoConfig.for_model(
        "bart", **sizes, encoder_attention_heads=2, decoder_attention_heads=2, vocab_size=len(tokenizer), num_labels=1,
        eos_token_id=4, pad_token_id=0, bos_token_id=2, decoder_start_token_id=4, max_position_embeddings=64,
        init_std=0.5,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    texts = ["yes </s> no", "the dog", "no </s> yes </s> dog"]
    with torch.no_grad():
        expected = [model(**tokenizer(text, return_tensors="pt")).logits.item() for text in texts]
    assert RewardModel(tmp_path).scores(texts) == pytest.approx(expected, abs=1e-5)


# --- what it reads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ENCODERS)
def test_special_tokens_come_once_also_if_the_template_writes_them(tmp_path, family):
    tokenizer = tokenizer_of(family)
    tokenizer.chat_template = "[CLS]{% for m in messages %}{{ m.content }} [SEP] {% endfor %}"
    model = save(tmp_path, family, tokenizer)
    expected = alone(model, tokenizer("[CLS] yes no [SEP] the dog [SEP]", add_special_tokens=False).input_ids)
    assert RewardModel(tmp_path)([CHAT], ["the dog"]) == pytest.approx([expected.item()], abs=1e-5)


def test_a_template_that_writes_bos_gets_no_second_one_and_one_that_does_not_gets_it(tmp_path):
    for folder, template in (("with", "[CLS] "), ("without", "")):
        tokenizer = word_tokenizer("[CLS]", "", "</s>")
        tokenizer.chat_template = template + CHATML
        save(tmp_path / folder, "llama", tokenizer)
        model = RewardModel(tmp_path / folder)
        (ids,) = model._ids([model.text(CHAT, "the dog")])
        assert tokenizer.convert_ids_to_tokens(ids).count("[CLS]") == 1 and ids[0] == tokenizer.cls_token_id


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_conversation_is_cut_at_its_beginning(tmp_path, family):
    tokenizer = tokenizer_of(family)
    model = save(tmp_path, family, tokenizer)
    prompt, reply = "the lazy dog . " * 60, "a quick fox"
    plain = tokenizer(prompt + reply, add_special_tokens=False).input_ids
    special = tokenizer.num_special_tokens_to_add()
    kept = plain[-(64 - special) :]
    kept = [tokenizer.cls_token_id, *kept, tokenizer.sep_token_id] if special else kept
    expected = alone(model, kept).item()
    assert RewardModel(tmp_path)([prompt], [reply], [False]) == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize(
    ("template", "prompt", "ended", "text"),
    [
        (CHATML, CHAT, True, "<|user|>yes no</s><|assistant|>the dog</s>"),
        (CHATML, CHAT, False, "<|user|>yes no</s><|assistant|>the dog"),
        (CHATML, "yes no", True, "<|user|>yes no</s><|assistant|>the dog</s>"),
        (None, "yes no :", True, "yes no : the dog</s>"),
        (None, "yes no :", False, "yes no : the dog"),
        (None, CHAT, True, "\n\nHuman: yes no\n\nAssistant: the dog</s>"),
        (None, CHAT, False, "\n\nHuman: yes no\n\nAssistant: the dog"),
    ],
)
def test_its_own_template_renders_the_conversation_and_an_unfinished_reply_stays_open(
    tmp_path, template, prompt, ended, text
):
    tokenizer = word_tokenizer("", "", "</s>")
    tokenizer.chat_template = template
    save(tmp_path, "gpt2", tokenizer)
    model = RewardModel(tmp_path)
    assert model.text(prompt, " the dog", ended) == text
    message = [{"role": "assistant", "content": " the dog"}]
    assert model([prompt], [message], [ended]) == model.scores([text])


def test_a_chat_without_a_template_and_without_eos_is_read_too(tmp_path):
    save(tmp_path, "bert", tokenizer_of("bert"))
    assert RewardModel(tmp_path).text(CHAT, "the dog") == "\n\nHuman: yes no\n\nAssistant: the dog"


def test_a_template_that_refuses_a_prompt_is_named_with_it(tmp_path):
    tokenizer = word_tokenizer("", "", "</s>")
    tokenizer.chat_template = "{{ raise_exception('no system message') if messages[0].role == 'system' }}" + CHATML
    save(tmp_path, "gpt2", tokenizer)
    model, system = RewardModel(tmp_path), [{"role": "system", "content": "be nice"}, *CHAT]
    model.check([{"prompt": CHAT}, {"prompt": "yes"}])
    with pytest.raises(InputError, match="reward model .*refuses .*be nice.*no system message; remove such prompts"):
        model.check([{"prompt": CHAT}, {"prompt": system}])


def test_as_the_reward_of_ppo_it_reads_the_decoded_responses_with_their_prompts(tmp_path):
    save(tmp_path, "bert", tokenizer_of("bert"))
    model, policy_tokenizer = RewardModel(tmp_path), new_tokenizer(["the quick brown fox"] * 9, 280)
    replies = [policy_tokenizer(text).input_ids for text in ("the fox", "brown")]
    tokens = torch.tensor([[*replies[0], 0, 1][:4], [*replies[1], 0, 1, 1, 1][:4]])
    mask = tokens != policy_tokenizer.pad_token_id
    zeros = torch.zeros(2, 4)
    ended = torch.tensor([False, True])
    responses = Responses(tokens, mask.long(), mask, ended, torch.tensor([1, 0]), zeros, zeros, zeros)
    rows = [{"prompt": "yes "}, {"prompt": CHAT}]
    texts = policy_tokenizer.batch_decode(
        [row[m] for row, m in zip(tokens, mask, strict=True)], skip_special_tokens=True
    )
    expected = model([CHAT, "yes "], texts, [False, True])
    scores = RewardFunctions({"reward_model": model}, policy_tokenizer, rows)(responses)
    assert scores.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize("template", [CHATML, None])
def test_control_tokens_of_prompts_and_replies_are_text(tmp_path, family, template):
    """Their characters are unknown words here; the special tokens are those of the tokenizer and the template."""
    tokenizer = word_tokenizer("[CLS]", "[SEP]" if family == "bert" else "", None if family == "bert" else "</s>")
    tokenizer.chat_template = template
    save(tmp_path, family, tokenizer)
    model = RewardModel(tmp_path)
    prompt = [{"role": "user", "content": "[CLS] yes </s> no [SEP]"}]
    (ids,), (plain,) = (
        model._ids([model.text(chat, reply)]) for chat, reply in ((prompt, "the [SEP] dog </s>"), (CHAT, "the dog"))
    )
    assert [token for token in ids if token != tokenizer.unk_token_id] == [
        token for token in plain if token != tokenizer.unk_token_id
    ]
    assert ids.count(tokenizer.unk_token_id) > plain.count(tokenizer.unk_token_id)
    assert model([prompt], ["the [SEP] dog </s>"]) != model([CHAT], ["the dog"])


def test_control_tokens_of_a_rendered_prompt_stay_control_tokens(tmp_path):
    save(tmp_path, "llama", word_tokenizer("", "", "</s>"))
    model = RewardModel(tmp_path)
    texts = [model.text("yes </s> no", " </s>", False, rendered=flag) for flag in (True, False)]
    assert [ids.count(4) for ids in model._ids(texts)] == [2, 0]


def test_a_reply_whose_control_token_is_a_word_of_the_vocabulary_has_a_score(tmp_path):
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", -1.0), *((c, -9.0) for c in "</s>abc ")], 0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    model = save(tmp_path, "llama", tokenizer)
    expected = alone(model, tokenizer("a b</s> c").input_ids).item()
    assert RewardModel(tmp_path)(["a "], ["b</s> c"], [False]) == pytest.approx([expected], abs=1e-5)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_labels_are_listed_if_none_or_an_unknown_one_is_named(tmp_path):
    save(tmp_path, "bert", tokenizer_of("bert"), {0: "helpful", 1: "harmless"})
    with pytest.raises(InputError, match="has 2 labels: name one of helpful, harmless"):
        RewardModel(tmp_path)
    with pytest.raises(InputError, match="no label 'helpfull', did you mean \"helpful\".; labels: helpful, harmless"):
        RewardModel(tmp_path, "helpfull")
    with pytest.raises(InputError, match="no label '2'"):
        RewardModel(tmp_path, "2")


def test_what_is_no_sequence_classifier_is_refused_in_words(tmp_path):
    save(tmp_path / "judge", "bert", tokenizer_of("bert"))
    with pytest.raises(InputError, match='no sequence classifier at .*, did you mean ".*judge"'):
        check_classifier(tmp_path / "jugde")
    config = AutoConfig.for_model("gpt2", vocab_size=300, **FAMILIES["gpt2"])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "lm")
    with pytest.raises(InputError, match="not a sequence classifier but a GPT2LMHeadModel"):
        check_classifier(tmp_path / "lm")


def test_a_token_that_the_model_lacks_is_named(tmp_path):
    save(tmp_path, "gpt2", word_tokenizer("", "", "</s>"))
    larger = AutoTokenizer.from_pretrained(tmp_path)
    larger.add_tokens(["hen"])
    larger.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="its tokenizer has the token 'hen', which its model lacks"):
        RewardModel(tmp_path).scores(["the hen"])


def test_only_a_decoder_with_one_label_and_the_same_tokens_reads_the_policys_token_ids(tmp_path):
    tokenizer = tokenizer_of("gpt2")
    save(tmp_path / "same", "gpt2", tokenizer)
    save(tmp_path / "labels", "gpt2", tokenizer, {0: "a", 1: "b"})
    save(tmp_path / "encoder", "bert", tokenizer)
    save(tmp_path / "other", "gpt2", new_tokenizer(["other words"] * 9, 280))
    names = ("same", "labels", "encoder", "other")
    assert [reads_token_ids(tmp_path / name, tokenizer) for name in names] == [True, False, False, False]
