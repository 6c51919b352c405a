"""Sequence classifiers: those of causal language models, all with a linear head, and those of encoders.

`Scorer` gives the scores of a classifier at any tokens. Shapes: B rows of L tokens; N tokens without padding; S
selected ones of these; W hidden width.
"""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from rlhf import InputError
from rlhf.adapters.folders import is_adapter, model_folder
from rlhf.adapters.lora import HEAD, adapter_weights, has_adapter, save_model, shared_copy
from rlhf.engine import call_inside, hidden_states


class AutoClassifier:
    """Loads sequence classifiers with a linear head `score`, for every family of causal language models."""

    @staticmethod
    def from_pretrained(source: str, **kwargs: Any) -> Any:
        """What `AutoModelForSequenceClassification.from_pretrained` returns, also for families that lack a class there.

        Raises InputError for a model that is not a causal language model.
        """
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if _has_own_class(config):
            return AutoModelForSequenceClassification.from_pretrained(source, **kwargs)
        causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        if causal is None:
            raise InputError(f"{source} holds a {config.model_type}, which is not a causal language model")
        if causal.config_class is config.sub_configs.get("text_config"):
            config = config.get_text_config()  # the text part of a vision-language model, as AutoModelForCausalLM does
        config.num_labels = kwargs.pop("num_labels", config.num_labels)
        return classifier_class(causal).from_pretrained(source, config=config, **kwargs)


def classifier_config(source: str | Path) -> Any:
    """The configuration of the model at `source`; of an adapter, that of its base, with the labels of its own head."""
    config = AutoConfig.from_pretrained(model_folder(source, "config.json"), trust_remote_code=False)
    if is_adapter(source) and (head := adapter_weights(source).get(HEAD)) is not None:
        config.architectures, config.num_labels = None, len(head)
    return config


def has_head(source: str | Path) -> bool:
    """Whether the model at `source` is a sequence classifier, or an adapter with the head of one."""
    if is_adapter(source):
        return HEAD in adapter_weights(source)
    names = AutoConfig.from_pretrained(source, trust_remote_code=False).architectures or []
    return any(name.endswith("ForSequenceClassification") for name in names)


class AnyClassifier:
    """Loads decoders as `AutoClassifier` does, and encoders with the head of their own class."""

    @staticmethod
    def from_pretrained(source: str, **kwargs: Any) -> Any:
        """What `AutoModelForSequenceClassification.from_pretrained` returns, and decoders that it lacks."""
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        loader: Any = AutoClassifier if is_decoder(config) else AutoModelForSequenceClassification
        return loader.from_pretrained(source, **kwargs)


def is_decoder(config: PreTrainedConfig) -> bool:
    """Whether the sequence classifier of a configuration is a linear head `score` at the last token of a decoder."""
    own = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    return own is None or getattr(config, "is_decoder", False) or _has_own_class(config)


def _has_own_class(config: PreTrainedConfig) -> bool:
    """Whether transformers has a sequence classifier for the family whose head is a linear layer `score`."""
    own: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if own is None:
        return False
    with torch.device("meta"):
        return isinstance(getattr(own(config), "score", None), nn.Linear)


@cache
def classifier_class(causal: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class of `causal`'s trunk with a linear head `score`.

    Names of the class and of its weights are those of transformers' own sequence classifiers, so that a version of
    transformers with such a class loads what this one saves.
    """
    base = next(c for c in causal.__mro__ if c.__name__.endswith("PreTrainedModel"))

    class Classifier(base):  # type: ignore[misc, valid-type]
        def __init__(self, config: PreTrainedConfig):
            super().__init__(config)
            language_model = causal(config)
            # some classes name a prefix that they don't have
            self.base_model_prefix = (
                causal.base_model_prefix if language_model.base_model is not language_model else "model"
            )
            setattr(self, self.base_model_prefix, getattr(language_model, self.base_model_prefix))
            self.num_labels: int = config.num_labels or 1
            self.score = nn.Linear(cast(int, config.get_text_config().hidden_size), self.num_labels, bias=False)
            self.post_init()

        def forward(
            self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
        ) -> SequenceClassifierOutput:
            """The scores (B, labels) at the last token of each row."""
            hidden = self.base_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
            return SequenceClassifierOutput(logits=self.score(hidden[torch.arange(len(last)), last]))

    Classifier.__name__ = Classifier.__qualname__ = (
        f"{base.__name__.removesuffix('PreTrainedModel')}ForSequenceClassification"
    )
    Classifier.__module__ = causal.__module__  # transformers finds a family's renamed weights by this module
    return Classifier


def classifier_on(model: PreTrainedModel) -> PreTrainedModel:
    """A sequence classifier with one label on the trunk of a causal language model.

    It shares the frozen weights of the trunk, and has a copy of its adapter. The head is not initialised. Raises
    InputError for a family whose classifiers have more than a trunk and a head.
    """
    trunk = shared_copy(model.base_model)
    config = cast(PreTrainedConfig, trunk.config)
    config.num_labels = 1
    own: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    with torch.device("meta"):
        classifier = (own if _has_own_class(config) else classifier_class(cast(Any, type(model))))(config)
    setattr(classifier, classifier.base_model_prefix, trunk)
    head = cast(nn.Linear, classifier.score)
    # without drawing random numbers, because saving a value head must not change those of a run
    classifier.score = nn.utils.skip_init(nn.Linear, head.in_features, 1, bias=head.bias is not None)
    if any(parameter.is_meta for parameter in classifier.parameters()):
        raise InputError(f"{type(classifier).__name__} can't share a trunk: train all weights, without lora_r")
    if has_adapter(model):
        classifier.peft_config = deepcopy(model.peft_config)
        for adapter in classifier.peft_config.values():
            cast(Any, adapter).task_type = "SEQ_CLS"
    return classifier.eval()


class Scorer(nn.Module):
    """A sequence classifier with one label that returns scores at any tokens.

    A reward model uses the score at the last token of a response, a value model the scores before each of its tokens.
    Scores are normalised to `(score - config.score_mean) / config.score_std`; config.json holds the two numbers. Raises
    InputError for a model with more labels or without a linear head `score`.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        if not isinstance(getattr(model, "score", None), nn.Linear) or model.config.num_labels != 1:
            raise InputError(
                f"{type(model).__name__} is not a reward model: it needs one label and a linear head `score`"
            )
        self.model = model

    @property
    def config(self) -> Any:
        """The classifier's configuration, with `score_mean` and `score_std` if they have been set."""
        return self.model.config

    @property
    def head(self) -> nn.Linear:
        """The layer that turns a hidden state (..., W) into a score (..., 1)."""
        return cast(nn.Linear, self.model.score)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, index: Tensor | None = None, prefix_row: Tensor | None = None
    ) -> Tensor:
        """The normalised score (S,), in fp32, of the prefixes that end at tokens `index` (S,); by default at all (N,).

        `index` holds positions among the N tokens, see `rlhf.engine.packed_index`. For `prefix_row` see
        `rlhf.engine.hidden_states`.
        """
        if index is None:
            index = torch.arange(int(attention_mask.sum()), device=attention_mask.device)
        scores = call_inside(self.model, self._scores, input_ids, attention_mask, index, prefix_row)
        return (scores - getattr(self.config, "score_mean", 0.0)) / getattr(self.config, "score_std", 1.0)

    def _scores(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        attention_mask: Tensor,
        index: Tensor,
        prefix_row: Tensor | None,
    ) -> Tensor:
        hidden = hidden_states(model, input_ids, attention_mask, index, prefix_row)
        return self.head(hidden).squeeze(-1).float()

    def save_pretrained(self, folder: str | Path, merge: bool = False) -> None:
        """Saves the sequence classifier, without this wrapper; of one with an adapter, only that, unless `merge`."""
        save_model(self.model, folder, merge)
