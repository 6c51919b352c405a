"""A run: the folders of its finished stages, and whether their inputs have changed.

A finished stage writes a record, stage.json: its options, its code hash and its inputs with their SHA-256. A run may
have a base, the folder of another run. Results that the run lacks are read from there. Nothing is written there.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Any

from rlhf import InputError
from rlhf.run.files import read_json, sha256, write_json
from stages.common.programs import STAGES

RECORD, BEGUN, CHECKPOINTS, HASHES = "stage.json", "begun.json", "checkpoints", ".hashes.json"
CARD = "README.md"  # the model card of a result
SETTINGS = "run.json"  # in the folder of a run: the recipe, the seed and the base that it was made with
INPUT = "<run>/"  # prefix of an input that is a stage's result or a file in it
BASE = "<base>/"  # the same of the run's base, for a recipe that works on any base
MISSING = "missing"  # the hash of an input that does not exist
# entries of a record with their types; records of an earlier version have only the first two
_ENTRIES = {"options": dict, "seconds": int | float, "inputs": dict, "given": list, "arguments": list, "code": str}


class Run:
    """The folder of a run and its bases, in the order of search for finished stages."""

    def __init__(self, folder: Path, base: str | Path | None = None, results: Mapping[str, str] | None = None):
        """`results` maps stages to the folders of their results, in place of the first ones of the search."""
        self.folder = folder
        self.folders = [folder]
        while base := base or settings_of(self.folders[-1]).get("base"):
            if Path(base).resolve() in (path.resolve() for path in self.folders):
                raise InputError(f"{folder} can't be its own base: choose another folder, for instance RUN={folder}-2")
            if not Path(base).is_dir():
                raise InputError(f"{base}, the base of {self.folders[-1]}, is gone: give its new folder with BASE=")
            self.folders.append(Path(base))
            base = None
        self.chosen = {stage: Path(result) for stage, result in (results or {}).items()}
        self.hashes = _read_hashes(folder / HASHES)

    def find(self, stage: str) -> Path:
        """The folder of a stage's result: the chosen one, the run's, or the nearest base's; the run's if none exists."""
        if stage in self.chosen:
            return self.chosen[stage]
        return next((f / stage for f in self.folders if (f / stage / RECORD).is_file()), self.folder / stage)

    def path(self, name: str) -> Path:
        """The path of an input: a stage's result or a file in it if the name starts with `INPUT`, else the name.

        If the name starts with `BASE`, the result is one of the bases. Raises InputError if the run has no base.
        """
        if name.startswith(BASE):
            stage, _, file = name.removeprefix(BASE).partition("/")
            if not self.folders[1:]:
                raise InputError(f"{name}: {self.folder} has no base: name the folder of a run with BASE=")
            finished = (base / stage for base in self.folders[1:] if (base / stage / RECORD).is_file())
            return next(finished, self.folders[1] / stage) / file
        if not name.startswith(INPUT):
            return Path(name)
        stage, _, file = name.removeprefix(INPUT).partition("/")
        return self.find(stage) / file

    def hash(self, name: str) -> str:
        """The SHA-256 of an input: a file, a folder or a pattern of files; `MISSING` if nothing matches."""
        path = self.path(name)
        paths = [path] if os.path.exists(path) else sorted(map(Path, glob(str(path))))
        if not paths:
            return MISSING
        if len(paths) == 1 and path.is_file():
            return self._hash_of(path)
        digest = hashlib.sha256()
        for file in (file for path in paths for file in _files(path)):
            digest.update(f"{os.path.relpath(file, path.parent)} {self._hash_of(file)}\n".encode())
        return digest.hexdigest()

    def _hash_of(self, file: Path) -> str:
        """The SHA-256 of a file, cached until the file's size or modification time changes."""
        status, key = file.stat(), str(file.resolve())
        known = self.hashes.get(key)
        if known is None or known[:2] != [status.st_size, status.st_mtime_ns]:
            known = self.hashes[key] = [status.st_size, status.st_mtime_ns, sha256(file)]
        return str(known[2])

    def save_hashes(self) -> None:
        """Writes the hash cache, if the run's folder exists and is writable."""
        path = self.folder / HASHES
        if self.folder.is_dir() and self.hashes != _read_hashes(path):
            with suppress(OSError):
                write_json(path, self.hashes)


def record_of(folder: Path) -> dict[str, Any]:
    """The record of the result in a folder; empty if there is none. Raises InputError if it is damaged."""
    record = read_json(folder / RECORD)
    for name, kind in _ENTRIES.items() if record else ():
        required = name in ("options", "seconds") or "inputs" in record
        if name in record and not isinstance(record[name], kind) or name not in record and required:
            raise InputError(f"{folder / RECORD}: damaged ({name}); remove it, and the stage is made again")
    texts = [*record.get("inputs", {}).values(), *record.get("given", []), *record.get("arguments", [])]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{folder / RECORD}: damaged; remove it, and the stage is made again")
    return record


def settings_of(folder: Path) -> dict[str, Any]:
    """Recipe, seed and base that a run was made with; empty if there is no run in the folder.

    They are read from run.json or, if that is missing or damaged, from the record of a stage.
    """
    if settings := saved_settings(folder):
        return settings
    for stage in STAGES:
        with suppress(InputError):
            options = record_of(folder / stage).get("options", {})
            if isinstance(options.get("recipe"), str):
                seed = options.get("run_seed")
                return {
                    "recipe": options["recipe"],
                    "seed": None if seed is None else str(seed),
                    "base": options.get("base"),
                }
    return {}


def saved_settings(folder: Path) -> dict[str, Any]:
    """The content of run.json; empty if it is missing or damaged."""
    with suppress(InputError):
        settings = read_json(folder / SETTINGS)
        optional = (settings.get("seed"), settings.get("base"))
        if isinstance(settings.get("recipe"), str) and all(isinstance(value, str | None) for value in optional):
            return settings
    return {}


def stage_of(name: str) -> str | None:
    """The stage whose result an input is or is part of; None for any other file."""
    stage = name.removeprefix(INPUT).partition("/")[0]
    return stage if name.startswith(INPUT) and stage in STAGES else None


def _read_hashes(path: Path) -> dict[str, list[Any]]:
    """The hash cache; empty if it is missing or damaged."""
    with suppress(InputError):
        hashes = read_json(path)
        if all(isinstance(entry, list) and len(entry) == 3 for entry in hashes.values()):
            return hashes
    return {}


def _files(path: Path) -> list[Path]:
    """The files of a folder, without records, checkpoints and hidden files; or `path` itself if it is a file.

    Without the model card that a stage writes too, because the time in it is that of the record.
    """
    if path.is_file():
        return [path]
    files = ((file, file.relative_to(path).parts) for file in path.rglob("*") if file.is_file())
    return sorted(
        file
        for file, parts in files
        if file.name != RECORD
        and not (file.name == CARD and file.with_name(RECORD).is_file())
        and CHECKPOINTS not in parts
        and not any(part.startswith(".") for part in parts)
    )
