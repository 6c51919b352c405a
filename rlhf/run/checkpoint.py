"""Checkpoints that detect damage.

A checkpoint is a folder with a manifest, which lists the size and SHA-256 of each file. If a checkpoint differs from
its manifest, this is reported and the checkpoint before it is used. Tensors are stored as safetensors and everything
else as JSON, so reading a checkpoint runs no code.
"""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf import InputError, first_line
from rlhf.run.files import replace, sha256, write_json

MANIFEST = "manifest.json"


class Checkpoints:
    """The checkpoints of a run, `step-0000012` and so on, in one folder. Only the newest `keep` are kept."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, keep

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Saves the checkpoint of `step` and returns its path. `write` fills a temporary folder.

        Raises InputError if writing fails; older checkpoints are kept.
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
        # torch raises RuntimeError for a file that can't be written
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            fallback = f"the last complete one is {self.steps()[-1]}" if self.steps() else "there is no older one"
            raise InputError(f"can't write the checkpoint {path} ({first_line(error)}); {fallback}") from error
        return path

    def sweep(self) -> None:
        """Removes the oldest checkpoints, and partial ones that a killed process left behind."""
        for old in self.steps()[: -self.keep]:
            old.rename(old.with_name(f".{old.name}.old"))  # a partly removed folder must not look like a checkpoint
        for remains in self.folder.glob(".step-*"):
            shutil.rmtree(remains)

    def steps(self) -> list[Path]:
        """The paths of the checkpoints, oldest first."""
        return sorted(self.folder.glob("step-" + 7 * "[0-9]"))

    def newest(self, warn: Callable[[str], None] = warnings.warn) -> Path | None:
        """The newest undamaged checkpoint, or None; `warn` gets a message for each damaged one."""
        self.sweep()
        for path in reversed(self.steps()):
            damage = damage_of(path)
            if not damage:
                return path
            warn(f"checkpoint {path} is damaged ({damage}): using the one before")
        return None


def step_of(path: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(path.name.removeprefix("step-"))


def damage_of(folder: Path) -> str:
    """A description of the damage to a checkpoint, or "" if every file agrees with the manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return next((damage for name, entry in manifest.items() if (damage := _file_damage(folder / name, entry))), "")
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        return f"{MANIFEST}: {first_line(error)}"


def _file_damage(path: Path, entry: dict[str, Any]) -> str:
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != entry["bytes"]:
        return f"{path.name} has {path.stat().st_size:,} bytes instead of {entry['bytes']:,}"
    return "" if sha256(path) == entry["sha256"] else f"{path.name} has another SHA-256 than when it was written"


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in files}


# --- nested state -----------------------------------------------------------------------------------------------------


def save_state(path: Path, state: Any) -> None:
    """Writes nested dicts and lists of tensors and JSON values as `path`.safetensors and `path`.json."""
    tensors: dict[str, Tensor] = {}
    plain = _without_tensors(state, "", tensors)
    save_file(_separate(tensors), f"{path}.safetensors")
    write_json(path.with_name(f"{path.name}.json"), plain)


def load_state(path: Path) -> Any:
    """The state that `save_state` wrote, with its tensors on the CPU."""
    tensors = load_file(f"{path}.safetensors")
    return _with_tensors(json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8")), tensors)


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU. A tensor that shares memory with another is copied, because safetensors refuses it."""
    result, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result


def _without_tensors(state: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(state, Tensor):
        tensors[name] = state
        return {"tensor": name}
    if isinstance(state, dict):
        # as pairs: JSON would turn the numeric keys of an optimizer's state into strings
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
