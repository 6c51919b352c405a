"""Models, prompts and rows for both sides, made from a seed, without a network."""

import hashlib
import random
from itertools import combinations
from math import log
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    PreTrainedTokenizerFast,
    logging,
)

from tests.benchmarks.workloads import PROMPT_TOKENS, SIZES, TRAINER_BATCH, TRAINER_STEPS, Workload

logging.disable_progress_bar()
EOS, PAD = 0, 1
HAZARD = 0.031  # probability of eos at every token, for responses of 25 of 48 tokens on average


def make_models(folder: Path, workload: Workload) -> None:
    """Writes a policy, a scorer (reward model, and initial value model) and a tokenizer of numbered words.

    With `lora_r` the scorer is an adapter on the policy's trunk.
    """
    size = SIZES[workload.size]
    vocabulary = {"<eos>": EOS, "<pad>": PAD, **{f"w{i}": i for i in range(2, size.vocabulary)}}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="w2"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )
    config = GPT2Config(
        vocab_size=size.vocabulary, n_positions=size.context, n_embd=size.width, n_layer=size.layers, n_head=size.heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD,
        num_labels=1,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(config)
    set_logits(policy, {EOS: log(HAZARD / (1 - HAZARD) * size.vocabulary) if workload.eos else -20.0, PAD: -20.0})
    policy.save_pretrained(folder / "policy")
    if workload.lora_r:
        scorer = adapted_scorer(folder / "policy", workload.lora_r)
    else:
        scorer = AutoModelForSequenceClassification.from_config(config)
    scorer.save_pretrained(folder / "scorer")
    for part in ("policy", "scorer"):
        tokenizer.save_pretrained(folder / part)


def adapted_scorer(trunk: Path, lora_r: int):
    """A random head, and a random adapter whose output is not 0, on the trunk of the language model in a folder."""
    from peft import get_peft_model

    model = AutoModelForSequenceClassification.from_pretrained(trunk, num_labels=1)
    return get_peft_model(model, lora_config(lora_r, "SEQ_CLS", modules_to_save=["score"], init_lora_weights=False))


def lora_config(lora_r: int, task: str, **further):
    """PEFT's options for adapters in all linear layers; `task` is its name of the kind of model."""
    from peft import LoraConfig  # only rows with adapters need the package

    return LoraConfig(r=lora_r, lora_alpha=2 * lora_r, target_modules="all-linear", task_type=task, **further)


def set_logits(policy, logits: dict[int, float]) -> None:
    """Gives tokens a constant logit relative to an average one.

    The first coordinate of the last hidden states becomes constant 10, and only the embeddings of these tokens read it.
    """
    embeddings, norm = policy.transformer.wte.weight, policy.transformer.ln_f
    average = embeddings.shape[1] * policy.config.initializer_range**2 / 2  # log-sum-exp of the others, less log V
    with torch.no_grad():
        norm.weight[0], norm.bias[0] = 0.0, 10.0
        embeddings[:, 0] = 0.0
        for token, logit in logits.items():
            embeddings[token] = 0.0
            embeddings[token, 0] = (logit + average) / 10


def prompts(workload: Workload) -> list[list[int]]:
    """As many prompts as a step has responses, so that every step answers all of them."""
    size, rng = SIZES[workload.size], random.Random(1)
    distinct = [_random_ids(rng, size.vocabulary, *PROMPT_TOKENS) for _ in range(size.batch // workload.completions)]
    return [ids for ids in distinct for _ in range(workload.completions)]


def documents(workload: Workload) -> list[dict[str, list[int]]]:
    """Rows of `input_ids` and `labels`: texts, or prompts with completions, where the loss is that of the completions."""
    vocabulary, rng, rows = SIZES[workload.size].vocabulary, random.Random(2), []
    for _ in range(TRAINER_BATCH * TRAINER_STEPS):
        prompt, completion = _random_ids(rng, vocabulary, *PROMPT_TOKENS), _completion(rng, workload)
        labels = (prompt if workload.kind == "pretrain" else [-100] * len(prompt)) + completion
        rows.append({"input_ids": prompt + completion, "labels": labels})
    return rows


def rankings(workload: Workload) -> list[dict[str, list]]:
    """Rows of `sequences`, each a prompt with one of K completions, and their `ranks`."""
    vocabulary, rng, rows = SIZES[workload.size].vocabulary, random.Random(3), []
    for _ in range(TRAINER_BATCH // 2 * TRAINER_STEPS):
        prompt = _random_ids(rng, vocabulary, *PROMPT_TOKENS)
        sequences = [prompt + _completion(rng, workload) for _ in range(workload.completions)]
        rows.append({"sequences": sequences, "ranks": rng.sample(range(workload.completions), workload.completions)})
    return rows


def pairs(rankings: list[dict[str, list]]) -> list[dict[str, list[int]]]:
    """The same rankings in TRL's format: all pairs of completions of a prompt, the better one as chosen."""
    result = []
    for row in rankings:
        ordered = [ids for _, ids in sorted(zip(row["ranks"], row["sequences"], strict=True))]
        result += [{"chosen_ids": better, "rejected_ids": worse} for better, worse in combinations(ordered, 2)]
    return result


def _random_ids(rng: random.Random, vocabulary: int, shortest: int, longest: int) -> list[int]:
    return [rng.randrange(2, vocabulary) for _ in range(rng.randint(shortest, longest))]


def _completion(rng: random.Random, workload: Workload) -> list[int]:
    return [*_random_ids(rng, SIZES[workload.size].vocabulary, 3, workload.response - 1), EOS]


def distinct_words(completions: list[str], **columns) -> list[float]:
    """A reward function: the share of distinct words of each completion."""
    return [len(set(text.split())) / max(1, len(text.split())) for text in completions]


def checksum(*models) -> str:
    """A hash of all weights, equal on two sides that have loaded the same models."""
    digest = hashlib.sha256()
    for model in models:
        for weight in model.state_dict().values():
            digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def prompts_checksum(input_ids, pad_id: int) -> str:
    """A hash of a batch of prompts that does not depend on their order and padding."""
    rows = sorted([token for token in row if token != pad_id] for row in input_ids.tolist())
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
