"""A PPO trainer of tiny models for tests, with a reward that is easy to earn."""

import torch
from transformers import AutoModelForSequenceClassification

from rlhf.adapters.lora import add_adapter, shared_copy
from rlhf.adapters.options import LoraOptions
from rlhf.classifiers import Scorer, classifier_on
from rlhf.config import PPOConfig
from rlhf.models import ValueHead
from rlhf.trainer import PPOTrainer
from tests.conftest import tiny_gpt2

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13], [14], [15, 16], [17, 18, 19, 20, 21], [22], [23, 24]]
TEXT = [[30 + i, 40 + i, 50, 60, 0] for i in range(9)]
RLOO = {"advantage_estimator": "rloo", "num_generations": 4}
REINFORCE = {"advantage_estimator": "reinforce"}
# the other estimators and losses, each at least once
OTHERS = [
    REINFORCE,
    {"advantage_estimator": "grpo", "num_generations": 4, "cliprange_high": 0.28},
    {"advantage_estimator": "dr_grpo", "num_generations": 4},
    {"advantage_estimator": "grpo", "num_generations": 4, "policy_loss": "gspo", "cliprange": 0.02},
    {"policy_loss": "gspo"},
    {"policy_loss": "cispo"},
]


def even_tokens(responses):
    """The reward: the share (B,) of even tokens."""
    return ((responses.tokens % 2 == 0) & responses.mask).sum(dim=1) / responses.lengths


def make_trainer(
    tokenizer, make=tiny_gpt2, reward=even_tokens, functions=None, dropout=0.0, value_model=None, lora_r=None, **options
) -> PPOTrainer:
    """A trainer of models that `make` makes, for two steps of eight responses; `options` override those of PPOConfig.

    Policy and reference are handed over in training mode, with dropout on. With `lora_r` all models are on one trunk.
    """
    defaults = {
        "batch_size": 8, "total_episodes": 16, "num_ppo_epochs": 1, "num_mini_batches": 1, "response_length": 6,
        "learning_rate": 1e-3, "value_learning_rate": 1e-3, "ptx_coef": 0.5, "ptx_batch_size": 4, "value_warmup_steps": 0,
    }  # fmt: skip
    config = PPOConfig(**(defaults | options))
    policy, reference = make(dropout=dropout), make(dropout=dropout)
    if lora_r:
        policy = adapted(reference, lora_r)
        if config.has_value_model and not config.share_trunk:
            value_model = Scorer(classifier_on(policy))
            torch.nn.init.normal_(value_model.head.weight, std=0.1)
    if value_model is None and config.has_value_model:
        head_only = config.share_trunk
        value_model = ValueHead(policy.config.hidden_size) if head_only else random_scorer(make(dropout=dropout))
    return PPOTrainer(
        config,
        policy=policy.train(),
        reference=reference.train(),
        value_model=value_model,
        reward=reward,
        functions=functions,
        tokenizer=tokenizer,
        prompts=PROMPTS,
        text=TEXT,
    )


def adapted(trunk, r):
    """A copy of a model with a LoRA adapter, which shares the trunk, whose weights are frozen."""
    model = shared_copy(trunk.requires_grad_(False))
    torch.manual_seed(2)
    add_adapter(model, "trunk", LoraOptions(lora_r=r))
    return model


def random_scorer(policy) -> Scorer:
    """A scorer of the policy's size with weights of its own."""
    policy.config.num_labels = 1
    torch.manual_seed(1)
    return Scorer(AutoModelForSequenceClassification.from_config(policy.config))


def weights(model) -> torch.Tensor:
    """All parameters of a model in one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def moved(model):
    """The model, its trainable weights moved as by training, so that the output of an adapter is not 0."""
    torch.manual_seed(3)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    return model.eval()
