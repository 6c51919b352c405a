"""The folders of a run and its bases, the records of finished stages, and hashes of their inputs.

A finished stage leaves a record, stage.json, with its options, the SHA-256 of its inputs and a hash of its code. A run
may have a base, the folder of another run. Stages that the run lacks are read from the base, which is never written to.
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
INPUT = "<run>/"  # prefix of inputs that are a stage's result or a file in it, in the run or a base
MISSING = "missing"  # stands for the hash of an input that does not exist


class Run:
    """A run's folder and those of its bases, in the order in which they are searched for finished stages."""

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
        self.chosen: dict[str, Path] = {}  # stage -> folder, if `stages.common.pipeline` has decided it
        self.hashes: dict[str, list[Any]] = read_json(folder / HASHES)

    def find(self, stage: str) -> Path:
        """The folder of a stage's result, in the run or the nearest base that has it.

        If there is no result, the folder in the run.
        """
        if stage in self.chosen:
            return self.chosen[stage]
        return next((f / stage for f in self.folders if (f / stage / RECORD).is_file()), self.folder / stage)

    def record(self, stage: str) -> dict[str, Any]:
        """The record of a finished stage; empty if there is none."""
        return record_of(self.find(stage))

    def path(self, name: str) -> Path:
        """The path of an input. If the name begins with `INPUT`, it is that of a stage's result or of a file in it."""
        if not name.startswith(INPUT):
            return Path(name)
        stage, _, file = name.removeprefix(INPUT).partition("/")
        return self.find(stage) / file

    def hash(self, name: str) -> str:
        """The SHA-256 of an input, a file, a folder or a pattern of files; `MISSING` if it does not exist."""
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
        """The SHA-256 of a file, from a cache unless its size or modification time has changed."""
        status, key = file.stat(), str(file.resolve())
        known = self.hashes.get(key)
        if known is None or known[:2] != [status.st_size, status.st_mtime_ns]:
            known = self.hashes[key] = [status.st_size, status.st_mtime_ns, sha256(file)]
        return str(known[2])

    def save_hashes(self) -> None:
        """Writes the cache of hashes, if the run's folder exists and is writable."""
        if self.folder.is_dir() and self.hashes != read_json(self.folder / HASHES):
            with suppress(OSError):
                write_json(self.folder / HASHES, self.hashes)


def record_of(folder: Path) -> dict[str, Any]:
    """The record in a stage's result folder; empty if there is none."""
    return read_json(folder / RECORD)


def stage_of(name: str) -> str | None:
    """The stage that produced an input; None if no stage did."""
    stage = name.removeprefix(INPUT).partition("/")[0]
    return stage if name.startswith(INPUT) and stage in STAGES else None


def _files(path: Path) -> list[Path]:
    """The files of a result or of a folder, without records and checkpoints."""
    if path.is_file():
        return [path]
    files = (file for file in path.rglob("*") if file.is_file() and file.name != RECORD)
    return sorted(file for file in files if CHECKPOINTS not in file.relative_to(path).parts)
