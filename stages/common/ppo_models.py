"""The models of a PPO run: all weights of each, or LoRA adapters on one trunk."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.adapters.folders import base_of, is_adapter
from rlhf.adapters.lora import add_adapter, has_adapter, shared_copy
from rlhf.classifiers import Scorer, classifier_on
from rlhf.config import PPOConfig
from rlhf.models import ValueHead, load_policy, load_scorer, new_value_model
from rlhf.run.placement import distributed, freeze
from stages.common.console import say
from stages.common.options import PPOOptions


@dataclass
class Models:
    """The models that PPO uses, in memory only once where they are equal."""

    policy: PreTrainedModel
    reference: PreTrainedModel
    value_model: nn.Module | None
    scorer: Scorer | None = None  # the reward model, if it shares a trunk with another of these models


def load_models(
    options: PPOOptions,
    accelerator: Accelerator,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    reward_source: str | None,
) -> Models:
    """The models of a run that trains all weights or, with `lora_r`, adapters.

    The policy starts from `source`, and the value model from the reward model at `reward_source`, or from the policy if
    that is None.
    """
    if options.lora_r:
        return load_adapted(options, tokenizer, source, reward_source)
    # each is sharded before the next is loaded, so that a process holds one whole model at most
    policy = distributed(load_policy(source, tokenizer))
    reference = distributed(freeze(load_policy(source, tokenizer), accelerator))
    return Models(policy, reference, make_value_model(options, policy, tokenizer, source, reward_source))


def make_value_model(
    config: PPOConfig,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str | Path,
    reward_source: str | Path | None,
) -> nn.Module | None:
    """The value model, or None if the advantage estimator needs none.

    With `share_trunk` it is a value head on the policy; otherwise a copy of the reward model, or, if that is None, the
    policy's trunk with a head whose values are 0 at first.
    """
    if not config.has_value_model:
        return None
    if config.share_trunk:
        return ValueHead(policy.config.get_text_config().hidden_size)
    return distributed(load_scorer(reward_source, tokenizer) if reward_source else new_value_model(source, tokenizer))


# --- adapters ---------------------------------------------------------------------------------------------------------


def load_adapted(
    options: PPOOptions, tokenizer: PreTrainedTokenizerBase, source: str, reward_source: str | None
) -> Models:
    """Policy, reference and, if it is an adapter of the same base, the reward model on one frozen trunk.

    Another reward model stays a model of its own, which the value model's adapter then shares.
    """
    base = trunk_of(source)
    trunk = load_policy(base, tokenizer).requires_grad_(False)
    policy = cast(PreTrainedModel, shared_copy(cast(nn.Module, trunk)))
    add_adapter(policy, source, options)
    # the reference has no adapter if the policy's is a new one, which changes nothing yet
    reference = cast(PreTrainedModel, shared_copy(cast(nn.Module, policy))) if is_adapter(source) else trunk
    if reward_source is None:
        scorer = None
    elif not is_adapter(reward_source):
        scorer = load_scorer(reward_source, tokenizer)
    else:
        reward_base = trunk_of(reward_source)
        if not same_model(reward_base, base):
            trunk = load_policy(reward_base, tokenizer).requires_grad_(False)
        scorer = Scorer(classifier_on(trunk))
        add_adapter(scorer.model, reward_source, None)
    value_model = adapted_value_model(options, policy, scorer, reward_source)
    for model in (reference, scorer):
        if model is not None:
            cast(nn.Module, model).requires_grad_(False)
    if scorer is not None and (reward_source is None or not same_model(trunk_of(reward_source), base)):
        say(f"the reward model {reward_source} has another trunk than the policy, which is in memory beside it")
    return Models(policy, reference, value_model, scorer)


def adapted_value_model(
    options: PPOOptions, policy: PreTrainedModel, scorer: Scorer | None, reward_source: str | None
) -> nn.Module | None:
    """A value model with an adapter of its own, see `make_value_model`. It shares the trunk of what it starts from."""
    if not options.has_value_model:
        return None
    if options.share_trunk:
        return ValueHead(policy.config.get_text_config().hidden_size)
    if scorer is None or reward_source is None:
        model = Scorer(classifier_on(policy))
        nn.init.zeros_(model.head.weight)
        return model
    if has_adapter(scorer.model):
        return shared_copy(scorer)
    scorer.requires_grad_(False)
    model = shared_copy(scorer)
    add_adapter(model.model, reward_source, options)
    return model


def trunk_of(source: str) -> str:
    """The model that the adapter at `source` was trained on, or `source` itself if it is an ordinary model."""
    return base_of(source) if is_adapter(source) else source


def same_model(one: str, other: str) -> bool:
    """Whether two folders, or two hub ids, are the same."""
    return Path(one).resolve() == Path(other).resolve()
