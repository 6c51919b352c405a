"""Checkpoints of an interrupted stage: when to save, and whether the checkpoints fit the present options and inputs."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from safetensors import SafetensorError

from rlhf import InputError, first_line
from rlhf.run.checkpoint import Checkpoints, step_of
from rlhf.run.files import read_json, write_json
from stages.common.console import say
from stages.common.interruption import Interrupted, interruption
from stages.common.options import SavingOptions
from stages.common.run import BEGUN, CHECKPOINTS
from stages.common.stage import Stage, difference


class Saver:
    """Saves checkpoints of a stage, by steps and by minutes, and finds the newest one to resume from.

    As a context it makes the first signal request a stop, see `interruption`.
    """

    def __init__(self, stage: Stage, options: SavingOptions):
        self.stage, self.options = stage, options
        self.checkpoints = Checkpoints(stage.partial / CHECKPOINTS, options.save_total_limit)
        self.saved, self.took = time.time(), 0.0

    def latest(self) -> Path | None:
        """The newest checkpoint of an interrupted run with the same options and inputs; None if there is none.

        Call it after all inputs of the stage are registered. Checkpoints with other options or inputs are removed.
        """
        now = self.stage.made_from()
        before = read_json(self.stage.partial / BEGUN)
        if self.checkpoints.steps():
            names = difference(before.get("options", {}), now["options"])
            changes = ", ".join(
                f"{name} {before.get('options', {}).get(name)}, now {now['options'][name]}" for name in names
            )
            if not changes and before.get("inputs") != now["inputs"]:
                changes = "its inputs have changed"
            if changes:
                say(f"the interrupted run was another one ({changes}): starts from the beginning")
                shutil.rmtree(self.checkpoints.folder)
        write_json(self.stage.partial / BEGUN, now)
        path = self.checkpoints.newest(warn=say)
        if path:
            changed = "" if before["code"] == now["code"] else ", although the code has changed since"
            say(f"resumes after step {step_of(path):,}{changed}")
        return path

    @contextmanager
    def resuming(self) -> Iterator[Path | None]:
        """A context in which the newest checkpoint is loaded.

        An error in it becomes an InputError with the checkpoint's path.
        """
        path = self.latest()
        try:
            yield path
        except (SafetensorError, KeyError, TypeError, RuntimeError, ValueError) as error:
            if path is None or isinstance(error, InputError):
                raise
            raise InputError(
                f"can't resume from the checkpoint {path} ({first_line(error)}): remove it to use the one before"
            ) from error

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after this step."""
        by_steps, by_minutes = self.options.save_steps, self.options.save_minutes
        if by_steps and step % by_steps == 0:
            return True
        return by_minutes is not None and time.time() - self.saved >= max(60 * by_minutes, 20 * self.took)

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Saves the checkpoint of this step. `write` fills a temporary folder."""
        started = time.time()
        self.checkpoints.save(step, write)
        self.saved = time.time()
        self.took = self.saved - started

    def __enter__(self) -> "Saver":
        interruption.in_loop = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interruption.in_loop = False

    @property
    def stop_requested(self) -> bool:
        """Whether a signal has arrived. The loop must then save and call `stop`."""
        return interruption.requested is not None

    def stop(self, step: int) -> None:
        """Raises Interrupted, with a message that names the saved step."""
        assert interruption.requested is not None
        raise Interrupted(
            interruption.requested, f"interrupted; saved after step {step:,}: the same command resumes from there"
        )
