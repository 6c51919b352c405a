"""LoRA adapters on a frozen trunk.

Each role, such as policy or value model, is a module tree of its own with its own adapter. The trees share the tensors
of the trunk, so a further role takes only the memory of its adapter, and no pass has to switch adapters.
"""

import copy
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf import InputError, first_line
from rlhf.adapters.folders import FACTS, base_of, is_adapter, stored_facts
from rlhf.adapters.options import LoraOptions
from rlhf.engine import save_whole
from rlhf.run.files import write_json

NAME = "default"  # PEFT's name of a model's only adapter
PREFIX = "base_model.model."  # of the names of weights in PEFT's files
HEAD = "score.weight"
HEADS = {"score", "classifier"}  # PEFT's modules_to_save of a classifier names both, of which a decoder has the first
NORMALISATION = ("score_mean", "score_std")  # entries of a reward model's configuration
FINGERPRINT = "base_fingerprint"  # entry of the configuration of a model with an adapter
SAMPLE = 64  # values of each weight that the fingerprint reads

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def peft() -> Any:
    """The package. Raises InputError if it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise InputError("LoRA adapters need the package peft: `pip install .[lora]`") from error
    return peft


def has_adapter(model: Any) -> bool:
    """Whether the model has a LoRA adapter beside its frozen trunk."""
    return bool(getattr(model, "peft_config", None))


def shared_copy(model: AnyModule) -> AnyModule:
    """A copy of a module that shares its frozen weights and its buffers. Trainable weights are copied."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers()) if not t.requires_grad}
    return copy.deepcopy(model, cast(Any, shared))


# --- adapters ---------------------------------------------------------------------------------------------------------


def add_adapter(model: PreTrainedModel, source: str | Path, options: LoraOptions | None) -> None:
    """Freezes the model, which was loaded from `base_of(source)` or `source`, and adds a trainable adapter, in place.

    It starts as a copy of the adapter at `source` or, if that is an ordinary model, with an output of 0. The head of a
    classifier is trained too. Raises InputError if PEFT refuses the options, or if the adapter there has others;
    without `options`, which only an adapter at `source` allows, it may have any.
    """
    classifies = isinstance(getattr(model, "score", None), nn.Linear)
    task = "SEQ_CLS" if classifies else "CAUSAL_LM"
    base = base_of(source) if is_adapter(source) else source
    config = _stored_adapter(source, options) if is_adapter(source) else _new_config(cast(LoraOptions, options))
    config.task_type, config.modules_to_save, config.inference_mode = task, None, False
    # an absolute path, so that PEFT finds the model from any folder
    config.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else str(base)
    check_base(model, source)
    setattr(model.config, FINGERPRINT, fingerprint(model))
    try:
        peft().inject_adapter_in_model(config, model, adapter_name=NAME)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"PEFT can't add adapters to {type(model).__name__}: {first_line(error)}") from error
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # a set has another order in every process
    if classifies:  # a copy, because another role may use the same head
        model.score = copy.deepcopy(model.score).requires_grad_(True)
    if is_adapter(source):
        weights = adapter_weights(source)
        if not classifies:
            weights.pop(HEAD, None)
        set_weights(model, weights, source)
        _copy_normalisation(model, source)


def _copy_normalisation(model: PreTrainedModel, source: str | Path) -> None:
    for name, value in stored_facts(source).items():
        if name in NORMALISATION:
            setattr(model.config, name, value)


def _new_config(options: LoraOptions) -> Any:
    targets: Any = options.lora_target_modules
    return peft().LoraConfig(
        r=options.lora_r,
        lora_alpha=2 * cast(int, options.lora_r) if options.lora_alpha is None else options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
    )


def _stored_adapter(source: str | Path, options: LoraOptions | None) -> Any:
    """The configuration of the adapter at `source`. Raises InputError if training can't continue it as it is."""
    config = _config(source)
    plain = config.peft_type == "LORA" and not config.lora_dropout and config.bias == "none" and not config.use_dora
    if not plain or set(config.modules_to_save or ()) - HEADS:
        raise InputError(
            f"{source} is not a plain LoRA adapter, and can't be trained as one: merge it into its model with peft's "
            "merge_and_unload, and name the folder of the result"
        )
    if options is None:
        return config
    wanted: dict[str, Any] = {"lora_r": (options.lora_r, config.r)}
    if options.lora_alpha is not None:
        wanted["lora_alpha"] = (options.lora_alpha, config.lora_alpha)
    if options.lora_target_modules != ["all-linear"]:
        wanted["lora_target_modules"] = (sorted(options.lora_target_modules), sorted(config.target_modules))
    for name, (value, stored) in wanted.items():
        if value != stored:
            raise InputError(
                f"{name} is {value}, but training starts from the adapter at {source}, which has {stored}: set {name} "
                f"to {stored}, or make that model with `merge: true`"
            )
    return config


def _config(source: str | Path) -> Any:
    library = peft()
    try:
        return library.PeftConfig.from_pretrained(str(source))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise InputError(f"{source}: peft can't read adapter_config.json ({first_line(error)})") from error


def adapter_weights(source: str | Path) -> dict[str, Tensor]:
    """The weights in an adapter's folder, on the CPU, by their names in the model. Raises InputError if unreadable."""
    library = peft()
    try:
        weights = library.load_peft_weights(str(source), device="cpu")
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"no weights of an adapter that peft can load at {source} ({first_line(error)})") from error
    return {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}


def set_weights(model: PreTrainedModel, weights: dict[str, Tensor], source: str | Path) -> None:
    """Sets the weights of the model's adapter, and of its head if `weights` has them.

    Raises InputError if they are not those of this adapter.
    """
    expected = peft().get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = dict(weights)
    if (head := weights.pop(HEAD, None)) is not None:
        cast(nn.Linear, model.score).weight.data.copy_(head)
    other = {name for name in expected.keys() | weights.keys() if name not in expected or name not in weights}
    other |= {name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape}
    if other:
        raise InputError(f"the adapter at {source} does not fit the model: {min(other)} differs")
    peft().set_peft_model_state_dict(model, weights, adapter_name=NAME)


def merged(model: PreTrainedModel, source: str | Path) -> PreTrainedModel:
    """The model with the adapter at `source` merged into its weights, in place.

    `model` was loaded from `base_of(source)`. Raises InputError if PEFT can't do it.
    """
    check_base(model, source)
    config, name = _config(source), str(source)
    config.task_type = None  # otherwise PEFT expects the methods of a certain kind of model
    if not isinstance(getattr(model, "score", None), nn.Linear):
        config.modules_to_save = [m for m in config.modules_to_save or [] if m not in HEADS] or None
    elif HEAD not in adapter_weights(source):
        config.modules_to_save = None
    try:
        model = peft().PeftModel.from_pretrained(model, name, config=config).merge_and_unload()
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise InputError(f"peft can't merge the adapter at {source} into its model ({first_line(error)})") from error
    _copy_normalisation(model, source)
    return _without_traces(model).requires_grad_(True)


def _without_traces(model: PreTrainedModel) -> PreTrainedModel:
    for owner, name in ((model, "peft_config"), (model.config, FINGERPRINT)):
        if name in vars(owner):
            delattr(owner, name)
    return model


def _merged_copy(model: PreTrainedModel) -> PreTrainedModel:
    """An ordinary model with its adapter merged into a copy of its weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    result = copy.deepcopy(model)
    for name, module in list(result.named_modules()):
        if isinstance(module, BaseTunerLayer):
            cast(Any, module).merge()
            result.set_submodule(name, module.get_base_layer())
    return _without_traces(result)


def save_model(model: PreTrainedModel, folder: str | Path, merge: bool = False) -> None:
    """Saves a model; of a model with an adapter, only that, in PEFT's format, unless `merge`."""
    if not has_adapter(model) or merge:
        save_whole(_merged_copy(model) if has_adapter(model) else model, folder)
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    weights = {PREFIX + name: tensor for name, tensor in trained_weights(model).items()}
    save_file(weights, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(cast(Any, model).peft_config[NAME])
    config.inference_mode = True
    config.modules_to_save = ["score"] if PREFIX + HEAD in weights else None
    config.save_pretrained(str(folder))
    facts = {name: getattr(model.config, name, None) for name in (FINGERPRINT, *NORMALISATION)}
    write_json(Path(folder) / FACTS, {name: value for name, value in facts.items() if value is not None})
    if getattr(model, "generation_config", None) is not None:
        cast(Any, model).generation_config.save_pretrained(folder)


def trained_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of the model's adapter and, of a classifier, of its head, on the CPU, by PEFT's names."""
    weights = peft().get_peft_model_state_dict(model, save_embedding_layers=False)
    if isinstance(head := getattr(model, "score", None), nn.Linear):
        weights[HEAD] = head.weight
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}


# --- the trunk --------------------------------------------------------------------------------------------------------


def fingerprint(model: PreTrainedModel) -> str:
    """A hash of some values of each weight of the trunk. Training a model, even for one step, changes it.

    The embedding is left out, because added tokens extend it.
    """
    digest, embedding = sha256(), cast(Any, model.get_input_embeddings()).weight
    for name, weight in model.base_model.named_parameters():
        if weight is not embedding:
            values = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLE)].float().cpu()
            digest.update(f"{name} {tuple(weight.shape)} ".encode() + values.numpy().tobytes())
    return digest.hexdigest()


def check_base(model: PreTrainedModel, source: str | Path) -> None:
    """Raises InputError if the model is not the one that the adapter at `source` was trained on."""
    known = stored_facts(source).get(FINGERPRINT) if is_adapter(source) else None
    if known is not None and known != fingerprint(model):
        raise InputError(
            f"the model at {base_of(source)} has changed since the adapter at {source} was trained on it: train the "
            "adapter again, or name the unchanged model in its adapter_config.json"
        )
