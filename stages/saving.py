"""Going on where an interrupted stage was: when it saves, and what must be the same for its checkpoints to be of use."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rlhf.checkpoint import Checkpoints, step_of, write_json
from rlhf.errors import InputError
from stages.cli import BEGUN, CHECKPOINTS, Stage, as_json, read_json, say
from stages.interruption import Interrupted, interruption
from stages.options import SavingOptions
from stages.settings import code


class Saver:
    """Saves the state of a stage in time, by steps and by minutes, and finds the last one again."""

    def __init__(self, stage: Stage, options: SavingOptions):
        self.stage, self.options = stage, options
        self.checkpoints = Checkpoints(stage.folder / CHECKPOINTS, options.save_total_limit)
        self.saved, self.took = time.time(), 0.0

    def latest(self) -> Path | None:
        """The newest checkpoint of a run with the same options and inputs that was interrupted, None if there is none.

        To be asked when all inputs are known. Those of another run are removed.
        """
        options = as_json(asdict(self.options))
        begun = {"options": options, "inputs": inputs_of(self.stage), "code": code(self.stage.name, options)}
        before = read_json(self.stage.folder / BEGUN)
        if self.checkpoints.steps():
            difference = self.stage.difference(before.get("options", {}))
            if before.get("inputs") != begun["inputs"]:
                difference = difference or " (its inputs have changed)"
            if difference:
                say("", f"what was interrupted was another run{difference}: starts from the beginning")
                shutil.rmtree(self.checkpoints.folder)
        write_json(self.stage.folder / BEGUN, begun)
        path = self.checkpoints.newest(warn=lambda text: say("", text))
        if path:
            changed = "" if before["code"] == begun["code"] else ", with code that has changed since"
            say("", f"goes on after step {step_of(path):,}{changed}")
        return path

    @contextmanager
    def going_on(self) -> Iterator[Path | None]:
        """The newest checkpoint, to be loaded within; what goes wrong then is an InputError that names it."""
        path = self.latest()
        try:
            yield path
        except (SafetensorError, KeyError, TypeError, RuntimeError, ValueError) as error:
            if path is None or isinstance(error, InputError):
                raise
            first = (str(error).strip() or type(error).__name__).split("\n")[0]
            raise InputError(
                f"the checkpoint {path} can't be gone on from ({first}): remove it to use the one before"
            ) from error

    def due(self, step: int) -> bool:
        """Whether it is time to save."""
        by_steps, by_minutes = self.options.save_steps, self.options.save_minutes
        if by_steps and step % by_steps == 0:
            return True
        return by_minutes is not None and time.time() - self.saved >= max(60 * by_minutes, 20 * self.took)

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Makes what `write` puts into the folder it is given the checkpoint of this step."""
        started = time.time()
        self.checkpoints.save(step, write)
        self.saved = time.time()
        self.took = self.saved - started

    def __enter__(self) -> "Saver":
        interruption.in_loop = True
        return self

    def __exit__(self, *error) -> None:
        interruption.in_loop = False

    @property
    def asked_to_stop(self) -> bool:
        """Whether a signal has come: the loop should save, and call `stop`."""
        return interruption.asked is not None

    def stop(self, step: int) -> None:
        """Raises Interrupted."""
        raise Interrupted(
            interruption.asked, f"interrupted; saved after step {step:,}: the same command goes on from there"
        )


def inputs_of(stage: Stage) -> dict[str, dict[str, list[int]]]:
    """Size and time of change of every file that the stage reads."""
    return {str(path): _facts(path) for path in stage.inputs}


def _facts(path: Path) -> dict[str, Any]:
    files = (
        [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and CHECKPOINTS not in p.parts)
    )
    return {str(p): [p.stat().st_size, p.stat().st_mtime_ns] for p in files}
