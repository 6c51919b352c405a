"""Files that are whole or absent, and checkpoints that know whether they are still what was written.

Everything is written beside its place, flushed to the disk, and renamed. A checkpoint is a folder with a manifest of the
size and SHA-256 of each file; one that does not agree with its manifest is named and passed over for the one before.
Tensors are stored as safetensors and everything else as JSON: reading a checkpoint executes nothing.
"""

import hashlib
import json
import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.errors import InputError

MANIFEST = "manifest.json"


class Checkpoints:
    """The checkpoints of a run, `step-0000012` and so on in one folder, of which the last `keep` stay."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, keep

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Has `write` fill a folder that it is given, and makes that the checkpoint of `step`.

        Raises InputError if it can't be written; the older checkpoints are as they were.
        """
        path = self.folder / f"step-{step:07d}"
        partial = self.folder / f".{path.name}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write(partial)
            write_json(partial / MANIFEST, _manifest(partial))
            replace(partial, path)
            self.sweep()
        # torch has no class of its own for a file that can't be written
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            kept = f"the last one that is whole is {self.steps()[-1]}" if self.steps() else "there is no older one"
            raise InputError(f"can't write the checkpoint {path} ({_first_line(error)}); {kept}") from error
        return path

    def sweep(self) -> None:
        """Removes the oldest, and what a kill has left of those that were being written or removed."""
        for old in self.steps()[: -self.keep]:
            old.rename(old.with_name(f".{old.name}.old"))  # a half of it must not be taken for a checkpoint
        for rest in self.folder.glob(".step-*"):
            shutil.rmtree(rest)

    def steps(self) -> list[Path]:
        """The checkpoints that are there, from the oldest to the newest."""
        return sorted(self.folder.glob("step-" + 7 * "[0-9]"))

    def newest(self, warn: Callable[[str], None] = warnings.warn) -> Path | None:
        """The newest checkpoint that is what was written, or None; `warn` is told of those that are not."""
        self.sweep()
        for path in reversed(self.steps()):
            damage = damage_of(path)
            if not damage:
                return path
            warn(f"checkpoint {path} is damaged ({damage}): going on from the one before")
        return None


def step_of(path: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(path.name.removeprefix("step-"))


def damage_of(folder: Path) -> str:
    """What is wrong with a checkpoint, or "" if every file is what its manifest says."""
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return next((fault for name, facts in listed.items() if (fault := _fault(folder / name, facts))), "")
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        return f"{MANIFEST}: {_first_line(error)}"


def _fault(path: Path, facts: dict[str, Any]) -> str:
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != facts["bytes"]:
        return f"{path.name} has {path.stat().st_size:,} bytes instead of {facts['bytes']:,}"
    return "" if _sha256(path) == facts["sha256"] else f"{path.name} has another SHA-256 than when it was written"


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in files}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- files ------------------------------------------------------------------------------------------------------------


def replace(partial: Path, path: Path) -> None:
    """Flushes a file or folder to the disk and moves it to where it belongs; a folder that was there goes."""
    for file in [partial, *partial.rglob("*")] if partial.is_dir() else [partial]:
        _flush(file)
    old = path.with_name(f".{path.name}.old")
    if path.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    partial.replace(path)
    _flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes a file that is whole or absent."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """The same of a JSON value. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


# --- what belongs into a checkpoint -----------------------------------------------------------------------------------


def save_state(path: Path, state: Any) -> None:
    """Writes nested dicts and lists of tensors and plain values as `path`.safetensors and `path`.json."""
    tensors: dict[str, Tensor] = {}
    plain = _without_tensors(state, "", tensors)
    save_file(_apart(tensors), f"{path}.safetensors")
    write_json(path.with_name(f"{path.name}.json"), plain)


def load_state(path: Path) -> Any:
    """What `save_state` wrote, its tensors on the CPU."""
    tensors = load_file(f"{path}.safetensors")
    return _with_tensors(json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8")), tensors)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, copied where they share memory with another, which safetensors refuses."""
    found, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def _without_tensors(state: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(state, Tensor):
        tensors[name] = state
        return {"tensor": name}
    if isinstance(state, dict):
        # as pairs: JSON would make text of the numbers that are the keys of an optimizer's state
        return {"dict": [[key, _without_tensors(value, f"{name}/{key}", tensors)] for key, value in state.items()]}
    if isinstance(state, list | tuple):
        return [_without_tensors(value, f"{name}/{i}", tensors) for i, value in enumerate(state)]
    return state


def _with_tensors(plain: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return [_with_tensors(value, tensors) for value in plain]
    if isinstance(plain, dict):
        if "tensor" in plain:
            return tensors[plain["tensor"]]
        return {key: _with_tensors(value, tensors) for key, value in plain["dict"]}
    return plain


def random_state() -> dict[str, Any]:
    """The state of the global random number generators of this process: Python's, numpy's and torch's."""
    kind, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    numpy = [kind, torch.from_numpy(keys.astype(np.int64)), *rest]
    return {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Puts the generators back into a state that `random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
