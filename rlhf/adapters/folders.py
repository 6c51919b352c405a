"""Folders in PEFT's format: adapter_config.json names the base, the model that the adapter was trained on."""

import json
from pathlib import Path
from typing import Any

from rlhf import InputError

CONFIG = "adapter_config.json"
# what PEFT has no place for: the fingerprint of the base, and the normalisation of a reward model. No config.json, with
# which transformers would take the folder for a whole model.
FACTS = "trunk.json"
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")


def is_adapter(source: str | Path) -> bool:
    """Whether a folder holds a PEFT adapter, and not the weights of a whole model beside it."""
    folder = Path(source)
    return (folder / CONFIG).is_file() and not any(path for pattern in WEIGHTS for path in folder.glob(pattern))


def base_of(source: str | Path) -> str:
    """The folder or hub id of the model that the adapter in a folder was trained on.

    A relative path counts from the current folder, then from the adapter's. An absolute path that is gone is also
    searched beside the adapter, where it lies if the whole run was moved. Raises InputError if the file names no base,
    or a folder that is gone.
    """
    folder = Path(source)
    try:
        name = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / CONFIG} is not readable JSON: copy the adapter again") from error
    if not isinstance(name, str) or not name:
        raise InputError(f"{folder / CONFIG} names no model: write its folder or hub id as base_model_name_or_path")
    tails = [Path(*Path(name).parts[-count:]) for count in (1, 2)]
    nearby = [parent / tail for parent in folder.resolve().parents[:3] for tail in tails]
    for place in (Path(name), folder / name, *nearby):
        if place.is_dir() and (place / "config.json").is_file():
            return str(place)
    if Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise InputError(
            f"{source} is an adapter of the model in {name}, which is gone: write where that model is now as "
            f"base_model_name_or_path into {folder / CONFIG}"
        )
    return name


def model_folder(source: str | Path, file: str) -> str:
    """The folder or hub id that has `file`, such as config.json: `source` or, for an adapter without it, its base."""
    if is_adapter(source) and not (Path(source) / file).is_file():
        return model_folder(base_of(source), file)
    return str(source)


def stored_facts(source: str | Path) -> dict[str, Any]:
    """The content of trunk.json in an adapter's folder; empty if there is none, as in folders that PEFT wrote."""
    path = Path(source) / FACTS
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not readable JSON: copy the adapter again") from error
