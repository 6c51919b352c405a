"""Policies, and the `rlhf.classifiers.Scorer` that serves as reward model and as value model.

All are ordinary Hugging Face models, and saved models load without this package: a policy is any
`AutoModelForCausalLM`, a scorer any `AutoModelForSequenceClassification` with one label and a linear head, if
transformers has one for the family (see `rlhf.classifiers` for others). W is the hidden width.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from rlhf import InputError, first_line
from rlhf.adapters.folders import base_of, is_adapter, model_folder
from rlhf.adapters.lora import adapter_weights, add_adapter, has_adapter, merged, save_model
from rlhf.adapters.options import LoraOptions
from rlhf.classifiers import AnyClassifier, AutoClassifier, Scorer, classifier_on, has_head
from rlhf.config import PrecisionOptions
from rlhf.engine import (
    check_sampling,
    check_training,
    is_sharded,
    limit_vocabulary,
    optimize,
    process_index,
    whole_state,
)

Model = TypeVar("Model", PreTrainedModel, Scorer)
Module = TypeVar("Module", bound=nn.Module)
# the settings of a generation_config that are kept; transformers writes the last five itself
KEPT_SETTINGS = {
    "bos_token_id",
    "decoder_start_token_id",
    "stop_strings",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "transformers_version",
    "_from_model_config",
}
HEAD = "score.weight"  # the parameter that transformers' sequence classifiers add to a language model


# --- policies ---------------------------------------------------------------------------------------------------------


def new_policy(
    tokenizer: PreTrainedTokenizerBase, layers: int, width: int, heads: int, context: int, initializer_range: float
) -> PreTrainedModel:
    """A GPT-2 of the given size with random weights, for `tokenizer`, without dropout.

    The width must be a multiple of the heads.
    """
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",  # the same function as GPT-2's gelu_new, in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=initializer_range,
        bos_token_id=tokenizer.bos_token_id,  # GPT-2's default is beyond a small vocabulary
    )
    policy = AutoModelForCausalLM.from_config(config)
    optimize(policy)
    return _with_special_tokens(policy, tokenizer)


def load_policy(
    source: str | Path, tokenizer: PreTrainedTokenizerBase, warn: Callable[[str], None] | None = None
) -> PreTrainedModel:
    """The causal language model of a folder or hub id, in fp32, its embedding extended to the tokenizer's vocabulary.

    Rows of its embedding beyond the vocabulary get probability 0. Raises InputError if no such model can be loaded, if
    sampling from it would be wrong (with `warn`, this gets the reason instead), or if training it would be wrong.
    """
    policy = _with_special_tokens(_resized(_load(AutoModelForCausalLM, source), tokenizer), tokenizer)
    if type(policy.config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(f"{type(policy).__name__} is not supported: transformers can't load its saved weights")
    limit_vocabulary(policy, token_count(tokenizer))
    try:
        check_sampling(policy)
    except InputError as error:
        if warn is None:
            raise
        check_training(policy)
        warn(f"warning: comparisons, ppo, samples and evaluate will refuse this model: {error}")
    return policy


def load_trained(
    source: str | Path, tokenizer: PreTrainedTokenizerBase, options: LoraOptions, warn: Callable[[str], None]
) -> PreTrainedModel:
    """A policy to train, see `load_policy`; with `lora_r` only its adapter is trainable, see `add_adapter`."""
    if not options.lora_r:
        return load_policy(source, tokenizer, warn)
    policy = load_policy(base_of(source) if is_adapter(source) else source, tokenizer, warn)
    add_adapter(policy, source, options)
    return policy


def token_count(tokenizer: PreTrainedTokenizerBase) -> int:
    """The number of rows that the tokenizer's ids need; some tokenizers leave ids unused, so `len` can be lower."""
    return max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)


def _resized(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Extends the model's embeddings, in place, to the tokens that were added to the tokenizer.

    A new embedding is the mean of the old ones: the token is as likely as an average one, and every load gives the
    same.
    """
    try:
        size = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    except NotImplementedError as error:
        raise InputError(f"{type(model).__name__} is not supported: transformers can't find its embedding") from error
    if (count := token_count(tokenizer)) > size:
        model.resize_token_embeddings(count, mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            for parameter in (getattr(layer, "weight", None), getattr(layer, "bias", None)):
                if parameter is not None:
                    parameter.data[size:] = parameter.data[:size].mean(dim=0)
    return model


def stop_token_ids(model: PreTrainedModel | str | Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the tokens that end a response: the tokenizer's eos and the eos of the model's `generation_config`.

    `model` may be a model, its folder or its hub id.
    """
    config: GenerationConfig | None
    if isinstance(model, PreTrainedModel):
        config = model.generation_config
    else:
        try:
            config = GenerationConfig.from_pretrained(model_folder(model, "generation_config.json"))
        except OSError:
            config = None
    eos = getattr(config, "eos_token_id", None)
    return sorted({tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos] if eos is not None else [])})


def _with_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Writes the tokenizer's eos and pad into the model's configuration, so that transformers stops and pads there.

    The settings of `generation_config` for sampling are dropped: they are not used here, and transformers refuses to
    save some that it loads, for example a temperature without do_sample.
    """
    if (settings := getattr(model, "generation_config", None)) is not None:
        stops, unused = stop_token_ids(model, tokenizer), settings.to_diff_dict().keys() - KEPT_SETTINGS
        for name in unused:
            setattr(settings, name, None)
        settings.eos_token_id, settings.pad_token_id = stops, tokenizer.pad_token_id
    config = model.config.get_text_config()
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    return model.eval()


def _load(auto_class: Any, source: str | Path, new_head: bool = False, **kwargs: Any) -> PreTrainedModel:
    """The model of a folder or hub id, an adapter merged. Raises InputError if weights but a `new_head`'s are missing."""
    if is_adapter(source):
        return _load_adapted(auto_class, source, new_head, **kwargs)
    try:
        # code that comes with a model is never run; torch reads old pickles with weights_only
        model, loaded = auto_class.from_pretrained(
            str(source), dtype=torch.float32, trust_remote_code=False, output_loading_info=True, **kwargs
        )
    except InputError:
        raise
    except UnpicklingError as error:
        raise InputError(
            f"the weights at {source} are not loaded: they contain pickled objects, which would run code"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if "mismatched" in str(error):
            raise InputError(
                f"{source}: the weights do not have the shapes in its config.json; a reward model has one label"
            ) from error
        kind = "causal language model" if auto_class is AutoModelForCausalLM else "sequence classifier"
        raise InputError(f"no {kind} that transformers can load at {source} ({first_line(error)})") from error
    _check_keys(auto_class, source, loaded["missing_keys"], loaded["unexpected_keys"], new_head)
    optimize(model)
    return model


def _load_adapted(auto_class: Any, source: str | Path, new_head: bool, **kwargs: Any) -> PreTrainedModel:
    """The base of the adapter in a folder, with the adapter merged into it."""
    classifies, head = auto_class is not AutoModelForCausalLM, adapter_weights(source).get(HEAD)
    scored, lacks = ({HEAD}, set()) if head is not None else (set(), {HEAD} if classifies else set())
    _check_keys(auto_class, source, lacks, scored, new_head)
    if classifies and head is not None:
        kwargs.setdefault("num_labels", len(head))
    return merged(_load(auto_class, base_of(source), new_head=classifies, **kwargs), source)


def _check_keys(auto_class: Any, source: str | Path, missing: Any, unexpected: Any, new_head: bool) -> None:
    """Raises InputError if a folder holds another kind of model than `auto_class` loads, or part of one."""
    if HEAD in unexpected and auto_class is AutoModelForCausalLM:
        raise InputError(
            f"{source} is a reward or value model: name a language model, such as the result of `make sft`"
        )
    lacking = sorted(set(missing) - ({HEAD} if new_head else set()))
    if lacking == [HEAD]:
        raise InputError(f"{source} is not a reward model: it has no score head; name the result of `make reward`")
    if lacking:
        raise InputError(f"{source} is incomplete: it lacks {lacking[0]}")


def device() -> torch.device:
    """The device that models run on: the accelerator, or the CPU.

    Apple's GPUs are not used, because they lack float64.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None or accelerator.type == "mps" else accelerator


def mixed_precision(options: PrecisionOptions) -> str:
    """Accelerate's name of the options' mixed precision. Raises InputError for fp16 on a CPU, or together with bf16."""
    if options.fp16 and device().type == "cpu":
        raise InputError("fp16 needs a GPU, and there is none: set bf16 instead, or neither")
    return options.mixed_precision


def on_device(model: PreTrainedModel) -> PreTrainedModel:
    """The same model, moved to `device()`."""
    cast(nn.Module, model).to(device())
    return model


def context_length(model: PreTrainedModel) -> int:
    """The longest sequence of the model, in tokens; `sys.maxsize` if its configuration sets no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize


def max_prompt_length(model: PreTrainedModel, response_length: int) -> int:
    """The longest prompt, in tokens, that leaves room for a response. Raises InputError if there is no room."""
    room = context_length(model) - response_length
    if room < 1:
        raise InputError(
            f"response_length {response_length} leaves no room for a prompt in a context of {context_length(model)}"
        )
    return room


# --- scorers ----------------------------------------------------------------------------------------------------------


class ValueHead(nn.Module):
    """A linear value head on the policy's hidden states. Its values are 0 before training."""

    def __init__(self, width: int):
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """The value (...,) of hidden states (..., W)."""
        return self.score(hidden).squeeze(-1).float()

    def save_pretrained(self, folder: str | Path, policy: PreTrainedModel, merge: bool = False) -> None:
        """Saves the head and the policy's trunk as one sequence classifier, which `load_scorer` can load.

        Of a policy with an adapter, only that is saved, with the head, unless `merge`.
        """
        if has_adapter(policy):
            classifier = classifier_on(policy)
            cast(nn.Linear, classifier.score).load_state_dict(self.score.state_dict())
            save_model(classifier, folder, merge)
            return
        save_model(policy, folder)
        head = whole_state(self)["score.weight"]
        if is_sharded(policy) and process_index():
            return  # the main process has written
        scorer = Scorer(_load(AutoClassifier, folder, new_head=True, num_labels=1))
        scorer.head.load_state_dict({"weight": head})
        scorer.save_pretrained(folder)


def new_scorer(source: str | Path, tokenizer: PreTrainedTokenizerBase, options: LoraOptions | None = None) -> Scorer:
    """A scorer to train, on the trunk of the causal language model at `source`, with a head drawn from N(0, 1/(W + 1)).

    If there is a reward model at `source`, the scorer is a copy of it, with its head and its normalisation.
    Source of the initialisation: summarize_from_feedback_details (arXiv 2403.17031), from Stiennon et al. With `lora_r`
    only head and adapter are trainable, see `add_adapter`. Raises InputError if no such model can be loaded.
    """
    adapted = options is not None and options.lora_r is not None
    trunk = base_of(source) if adapted and is_adapter(source) else source
    scorer = Scorer(_load(AutoClassifier, trunk, new_head=True, num_labels=1))
    if not has_head(source):
        nn.init.normal_(scorer.head.weight, std=(scorer.head.in_features + 1) ** -0.5)
    _with_special_tokens(_resized(scorer.model, tokenizer), tokenizer)
    if adapted:
        add_adapter(scorer.model, source, options)
    return scorer


def new_value_model(source: str | Path, tokenizer: PreTrainedTokenizerBase) -> Scorer:
    """An untrained value model on the trunk of the causal language model at `source`. Its values are 0."""
    scorer = new_scorer(source, tokenizer)
    nn.init.zeros_(scorer.head.weight)
    return scorer


def load_scorer(source: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Scorer:
    """The reward or value model of a folder or hub id, its embedding extended to the tokenizer's vocabulary.

    Raises InputError if no such model can be loaded.
    """
    model = _load(AutoClassifier, source, num_labels=1).eval()
    return Scorer(_resized(model, tokenizer) if tokenizer else model)


def save_as_classifier(model: PreTrainedModel, folder: str | Path, labels: Sequence[str], **settings: Any) -> None:
    """Saves the trunk of a language model and its linear head `score` as one sequence classifier with these labels.

    `settings` are written into its config.json.
    """
    save_model(model, folder)
    classifier = _load(AutoClassifier, folder, num_labels=len(labels))
    classifier.config.update({"id2label": dict(enumerate(labels)), **settings})
    classifier.config.label2id = {label: i for i, label in enumerate(labels)}
    save_model(classifier, folder)


def load_classifier(source: str | Path) -> PreTrainedModel:
    """The sequence classifier of a folder or hub id, decoder or encoder, with all its labels, in fp32.

    Raises InputError if no such model can be loaded.
    """
    return _load(AnyClassifier, source).eval()
