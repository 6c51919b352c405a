"""Checkpoints of an interrupted stage: when to save, and whether the checkpoints fit the present options and inputs."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import torch
from safetensors import SafetensorError

from rlhf import InputError, first_line
from rlhf.engine import total
from rlhf.run.checkpoint import Checkpoints, step_of
from rlhf.run.files import read_json, write_json
from stages.common.console import say
from stages.common.interruption import Interrupted, interruption
from stages.common.options import SavingOptions
from stages.common.processes import process_rank
from stages.common.run import BEGUN, CHECKPOINTS
from stages.common.stage import Stage, difference


def swap(partial: Path, aside: Path, keep: bool) -> None:
    """Moves the checkpoints of a partial result to `aside`, and those from there to the partial result if `keep`."""
    old = aside.with_name(f"{aside.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if aside.is_dir():
        aside.rename(old)
    aside.mkdir()
    for name in (BEGUN, CHECKPOINTS):
        if (partial / name).exists():
            (partial / name).rename(aside / name)
        if keep and (old / name).exists():
            (old / name).rename(partial / name)
    shutil.rmtree(old, ignore_errors=True)
    if not (aside / CHECKPOINTS).exists():
        shutil.rmtree(aside)


class Saver:
    """Saves checkpoints of a stage, by steps and by minutes, and finds the newest one to resume from.

    As a context it makes the first signal request a stop, see `interruption`.
    """

    def __init__(self, stage: Stage, options: SavingOptions):
        self.stage, self.options = stage, options
        self.checkpoints = Checkpoints(stage.partial / CHECKPOINTS, options.save_total_limit)
        self.saved, self.took = time.time(), 0.0
        self.stop_signal: int | None = None  # the signal that stops the loop after this step
        self.save_now = False

    def latest(self) -> Path | None:
        """The newest checkpoint of an interrupted run with the same options and inputs; None if there is none.

        The main process looks for it.

        Call it after all inputs of the stage are registered. Checkpoints with other options or inputs are set aside.
        They are used again if a later run has their options and inputs.
        """
        return self.stage.on_main(self._latest)

    def _latest(self) -> Path | None:
        partial, aside = self.stage.partial, self.stage.result.with_name(f".{self.stage.result.name}.interrupted")
        if self.checkpoints.steps() and (changes := self.changes_since(partial)):
            say(f"the interrupted run was another one ({changes}): it is kept in {aside}, and this one starts anew")
            swap(partial, aside, keep=not self.changes_since(aside))
        elif not self.checkpoints.steps() and aside.is_dir() and not self.changes_since(aside):
            swap(partial, aside, keep=True)
        before, path = read_json(partial / BEGUN), self.checkpoints.newest(warn=say)
        if path:
            codes = list(dict.fromkeys([*before["code"].split("+"), self.stage.code]))
            changed = ", although the code has changed since" if self.stage.code != codes[-1] or len(codes) > 1 else ""
            self.stage.code = "+".join(codes)  # several versions of the code make the result
            self.stage.seconds_before = before.get("seconds", 0.0)
            say(f"resumes after step {step_of(path):,}{changed}")
        self.write_begun()
        return path

    def changes_since(self, folder: Path) -> str:
        """How options or inputs differ from those of the interrupted run in a folder; "" if they do not."""
        before, now = read_json(folder / BEGUN), self.stage.made_from()
        options = before.get("options", {})
        names = difference(options, now["options"])
        changes = ", ".join(f"{name} {options.get(name)}, now {now['options'][name]}" for name in names)
        return changes or ("" if before.get("inputs") == now["inputs"] else "its inputs have changed")

    def write_begun(self) -> None:
        """Writes what the interrupted run is made from, and the time that it has taken."""
        write_json(self.stage.partial / BEGUN, {**self.stage.made_from(), "seconds": self.stage.seconds()})

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

    def after_step(self, step: int) -> None:
        """Decides, the same in each process, whether to save a checkpoint after this step, and whether to stop then."""
        signals = (signal.SIGINT, signal.SIGTERM)
        own = [*(interruption.requested == number for number in signals), self.due(step)]
        *requested, is_due = total(torch.tensor(own, dtype=torch.int)).tolist()
        self.stop_signal = next((number for number, votes in zip(signals, requested, strict=True) if votes), None)
        self.save_now = bool(is_due) or self.stopping

    @property
    def stopping(self) -> bool:
        """Whether a signal has arrived. The loop must then save and call `stop`."""
        return self.stop_signal is not None

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after this step, by the main process's clock."""
        if process_rank():
            return False
        by_steps, by_minutes = self.options.save_steps, self.options.save_minutes
        if by_steps and step % by_steps == 0:
            return True
        return by_minutes is not None and time.time() - self.saved >= max(60 * by_minutes, 20 * self.took)

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Saves the checkpoint of this step. `write` fills a temporary folder, in each process; the main one's is kept."""
        if process_rank():
            with TemporaryDirectory() as folder:
                write(Path(folder))
            return
        started = time.time()
        self.checkpoints.save(step, write)
        self.write_begun()
        self.saved = time.time()
        self.took = self.saved - started

    def __enter__(self) -> "Saver":
        interruption.in_loop = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interruption.in_loop = False

    def stop(self, step: int) -> None:
        """Raises Interrupted, with a message that names the saved step."""
        assert self.stop_signal is not None
        raise Interrupted(
            self.stop_signal, f"interrupted; saved after step {step:,}: the same command resumes from there"
        )
