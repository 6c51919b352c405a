"""Peak memory and time of a PPO step of GPT-2's size with random weights, for all weights and for adapters.

    python -m tests.lora_memory full
    python -m tests.lora_memory lora

Each side needs a process of its own, because the peak is that of the process. Batch of 32 responses of 48 tokens, four
minibatches, policy, reference, value model and reward model, no pretraining mix.
"""

import re
import resource
import sys
import time
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, GPT2Config

from rlhf.adapters.lora import shared_copy
from rlhf.classifiers import Scorer, classifier_on
from rlhf.config import PPOConfig
from rlhf.engine import optimize
from rlhf.models import freeze
from rlhf.scoring import reward_model_scores
from rlhf.trainer import PPOTrainer
from tests.trainers import adapted

RANK, STEPS = 16, 3


class Tokenizer:
    """The attributes of a tokenizer that the trainer reads; no token ends a response."""

    eos_token_id, pad_token_id = 50256, 0


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config).eval()
    optimize(model)
    return model


def make_models(lora: bool) -> tuple:
    """Policy, reference, value model and reward model."""
    if lora:
        reference = gpt2()
        policy = adapted(reference, RANK)
        scorer = Scorer(classifier_on(policy))
        torch.nn.init.normal_(scorer.head.weight, std=0.02)
        return policy, reference, shared_copy(scorer), scorer
    scorers = [Scorer(classifier_on(gpt2())) for _ in range(2)]
    for scorer in scorers:
        torch.nn.init.normal_(scorer.head.weight, std=0.02)
    return gpt2(), gpt2(), *scorers


def peak() -> float:
    """The peak memory of this process, GB."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    lora = sys.argv[1] == "lora"
    policy, reference, value_model, scorer = make_models(lora)
    accelerator = Accelerator(cpu=True)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(24, 41, (96,), generator=generator).tolist()
    trainer = PPOTrainer(
        PPOConfig(
            total_episodes=32 * STEPS, batch_size=32, num_ppo_epochs=1, num_mini_batches=4, learning_rate=3e-6,
            value_learning_rate=None, response_length=48, ptx_coef=0.0, value_warmup_steps=0,
        ),
        policy=policy, reference=reference, value_model=value_model,
        reward=partial(reward_model_scores, freeze(scorer, accelerator)), tokenizer=Tokenizer(),
        prompts=[torch.randint(1, 50000, (length,), generator=generator).tolist() for length in lengths],
        accelerator=accelerator,
    )  # fmt: skip
    trainer.sanity_report = "not measured"
    started = time.process_time()
    for step in trainer.train():
        print(
            f"{sys.argv[1]}, step {step.number}: {time.process_time() - started:.1f} CPU seconds, peak {peak():.2f} GB"
        )
        started = time.process_time()


if __name__ == "__main__":
    main()
