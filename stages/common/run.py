"""A run: where its finished stages are, and whether what they were made from is still the same.

A finished stage leaves a record, stage.json: its options, its inputs with their SHA-256, its code. A run may stand on a
base, the folder of another run. What the run itself lacks is then read from there; nothing there is written.
"""

import hashlib
import os
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Any

from rlhf import InputError
from rlhf.run.files import read_json, sha256, write_json
from stages.common.options import STAGES
from stages.common.recipe import SETTINGS

RECORD, BEGUN, CHECKPOINTS, HASHES = "stage.json", "begun.json", "checkpoints", ".hashes.json"
INPUT = "<run>/"  # an input of this name is a stage's result, or a file in it, in whichever folder it is found
MISSING = "missing"  # in place of the hash of an input that does not exist


class Run:
    """The folder of a run and those that it stands on, in the order in which finished stages are looked for."""

    def __init__(self, folder: Path, base: str | Path | None = None):
        self.folder = folder
        self.folders = [folder]
        while base := base or read_json(self.folders[-1] / SETTINGS).get("base"):
            if Path(base).resolve() in (path.resolve() for path in self.folders):
                raise InputError(
                    f"{folder} can't be its own base: give the new run another folder, for instance RUN={folder}-2"
                )
            self.folders.append(Path(base))
            base = None
        self.chosen: dict[str, Path] = {}  # stages whose folder is decided, see `stages.common.pipeline`
        self.hashes: dict[str, list[Any]] = read_json(folder / HASHES)

    def find(self, stage: str) -> Path:
        """The folder of a stage's result: the run's own or the nearest base's; where it would be, if there is none."""
        if stage in self.chosen:
            return self.chosen[stage]
        return next((f / stage for f in self.folders if (f / stage / RECORD).is_file()), self.folder / stage)

    def record(self, stage: str) -> dict[str, Any]:
        """The record of a finished stage; empty if there is none."""
        return record_of(self.find(stage))

    def path(self, name: str) -> Path:
        """The path of an input: of a result of this run, if it begins with `INPUT`, or a path as it stands."""
        if not name.startswith(INPUT):
            return Path(name)
        stage, _, file = name.removeprefix(INPUT).partition("/")
        return self.find(stage) / file

    def hash(self, name: str) -> str:
        """The SHA-256 of an input: of a file, or of all files of a folder or a pattern; `MISSING` if there is none."""
        path = self.path(name)
        paths = [path] if path.exists() else sorted(map(Path, glob(str(path))))
        if not paths:
            return MISSING
        if len(paths) == 1 and path.is_file():
            return self._hash_of(path)
        digest = hashlib.sha256()
        for file in (file for path in paths for file in _files(path)):
            digest.update(f"{os.path.relpath(file, path.parent)} {self._hash_of(file)}\n".encode())
        return digest.hexdigest()

    def _hash_of(self, file: Path) -> str:
        """The SHA-256 of a file, computed again only if its size or time has changed."""
        status, key = file.stat(), str(file.resolve())
        known = self.hashes.get(key)
        if known is None or known[:2] != [status.st_size, status.st_mtime_ns]:
            known = self.hashes[key] = [status.st_size, status.st_mtime_ns, sha256(file)]
        return str(known[2])

    def save_hashes(self) -> None:
        """Keeps the hashes for the next time, if the run's folder exists and can be written to."""
        if self.folder.is_dir() and self.hashes != read_json(self.folder / HASHES):
            with suppress(OSError):
                write_json(self.folder / HASHES, self.hashes)


def record_of(folder: Path) -> dict[str, Any]:
    """The record that a stage left in its result; empty if there is none."""
    return read_json(folder / RECORD)


def stage_of(name: str) -> str | None:
    """The stage whose result an input is, or is part of; None for any other file."""
    stage = name.removeprefix(INPUT).partition("/")[0]
    return stage if name.startswith(INPUT) and stage in STAGES else None


def _files(path: Path) -> list[Path]:
    """The files of a result or of a folder, without records and checkpoints."""
    if path.is_file():
        return [path]
    files = (file for file in path.rglob("*") if file.is_file() and file.name != RECORD)
    return sorted(file for file in files if CHECKPOINTS not in file.relative_to(path).parts)
