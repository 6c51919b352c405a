"""What every stage does around its work: read its options, find its inputs, say what happens, and leave a record.

A stage writes into a folder beside its result and moves it into place when it has finished, so that a result is whole
or absent, and an older one is replaced only by a finished one.
"""

import errno
import gc
import json
import logging
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlhf.checkpoint import replace, write_json
from rlhf.data import Row
from rlhf.errors import InputError
from stages.interruption import STOPPED, interruption, lock
from stages.options import StageOptions, parse

RECORD, CHECKPOINTS, BEGUN = "stage.json", "checkpoints", "begun.json"
# options that change what is shown and where, and not what comes out
SILENT_OPTIONS = {
    "recipe", "run", "output", "show_samples", "log_with", "save_steps", "save_minutes", "save_total_limit"
}  # fmt: skip


class Stage:
    """Where a stage finds its inputs and leaves its result."""

    def __init__(self, name: str, options: StageOptions):
        self.name, self.options = name, options
        self.run = options.run_folder
        self.result = Path(options.output) if options.output else self.run / name
        self.folder = self.result.with_name(f".{self.result.name}.partial")
        self.inputs: list[Path] = []
        self.started = time.time()

    def begin(self) -> bool:
        """Takes hold of the result's place, and says whether there is anything left to do."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = lock(self.folder)
        say(f"\n{self.name}")
        if self.finished_before():
            say("", f"had finished when it was interrupted, in {self.result}")
            return False
        for path in self.folder.iterdir():
            if path.name not in (CHECKPOINTS, BEGUN):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.result.exists():
            say("", f"replaces {self.result}" + self.difference(record_of(self.result).get("options", {})))
        return True

    def finished_before(self) -> bool:
        """Puts in order what was left by a stage that was killed while its result was moved into place."""
        old = self.result.with_name(f".{self.result.name}.old")
        record = record_of(self.folder)
        finished = bool(record) and not self.difference(record["options"])
        if finished:
            replace(self.folder, self.result)
        elif old.exists() and not self.result.exists():
            old.rename(self.result)
        return finished

    def keep_batch(self, step: int, rows: Iterable[Row]) -> Path:
        """Writes the batch whose numbers went wrong to where no later run removes it."""
        path = self.run / f"{self.name}-stopped-in-step-{step}.jsonl"
        write_rows(path, rows)
        return path

    def difference(self, options: dict[str, Any]) -> str:
        """In what these options are not the stage's own, in brackets; "" if in nothing that changes the result."""
        own = as_json(asdict(self.options))
        names = [name for name in own if name not in SILENT_OPTIONS and options.get(name) != own[name]]
        listed = ", ".join(f"{name} {options.get(name)}, now {own[name]}" for name in names)
        return f" ({listed})" if listed else ""

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the record, moves the result into place and says where it lies."""
        seconds = time.time() - self.started
        libraries = ("torch", "transformers", "datasets", "trl", "accelerate")
        record = {
            "stage": self.name,
            "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "options": asdict(self.options),
            "versions": {library: version(library) for library in libraries},
            **summary,
        }
        (self.folder / BEGUN).unlink(missing_ok=True)
        write_json(self.folder / RECORD, record)
        replace(self.folder, self.result)
        say("", f"{_duration(seconds)}, in {self.result}")

    def model(self, given: str | None, made_by: str) -> str:
        """The model folder or hub id that an option names, or else the result of another stage."""
        source = given or str(self._made(self.run / made_by, made_by, "model"))
        self.inputs.append(Path(source))
        return source

    def rows(self, given: str | None, file: str, made_by: str = "data") -> Path:
        """The file of rows that an option names, or else one that another stage wrote."""
        path = Path(given) if given else self._made(self.run / made_by / file, made_by, "rows")
        self.inputs.append(path)
        return path

    def _made(self, path: Path, made_by: str, what: str) -> Path:
        if not path.exists():
            raise InputError(f"no {what} at {path}: run `make {made_by}` first")
        return path

    def record(self, stage: str) -> dict[str, Any]:
        """What another stage of this run has recorded; empty if it has not run."""
        return record_of(self.run / stage)


def record_of(folder: Path) -> dict[str, Any]:
    """What a stage has recorded in its result; empty if there is none."""
    return read_json(folder / RECORD)


def main(name: str, options_class: type[StageOptions], work: Callable[[Any, Stage], dict[str, Any]]) -> None:
    """Runs a stage from the command line. Exit status 2 for what a person can mend, 130 after Ctrl-C, 143 after SIGTERM."""
    gc.freeze()
    gc.enable()
    quiet_libraries()
    interruption.listen()
    try:
        options = parse(options_class, name)
        stage = Stage(name, options)
        if stage.begin():
            if getattr(options, "bf16", False):
                warn_of_bf16()
            stage.finish(work(options, stage) or {})
    except InputError as error:
        if interruption.stopped:  # what a library made of its being interrupted is no mistake of the input
            sys.exit(_fail(name, STOPPED, 128 + interruption.stopped))
        sys.exit(_fail(name, str(error), 2))
    except OSError as error:
        if error.errno not in _MENDABLE:
            raise
        sys.exit(_fail(name, f"{error}; what other stages had finished is untouched", 2))
    except KeyboardInterrupt as error:
        sys.exit(_fail(name, str(error) or "interrupted", 128 + getattr(error, "signal", signal.SIGINT)))


# what can be wrong with a place to write to: no space, no permission, a file in the way
_MENDABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT
}  # fmt: skip


def _fail(name: str, message: str, status: int) -> int:
    print(f"\n{name}: {message}", file=sys.stderr, flush=True)
    return status


def warn_of_bf16() -> None:
    """Says so where bf16 would make a run slower instead of faster."""
    from rlhf.kernels import slowness_of_bf16
    from rlhf.models import device

    if device().type == "cpu" and (times := slowness_of_bf16()) > 2:
        say(
            "",
            f"bf16 takes {times:.0f} times as long as fp32 on this CPU, which has no instructions for it: leave it out",
        )


def quiet_libraries() -> None:
    """No progress bars and reports of libraries beside our own, and no warnings that a user can't act on."""
    import datasets
    import transformers

    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    for library in ("accelerate", "trl", "torch"):
        logging.getLogger(library).setLevel(logging.ERROR)


def say(label: str, text: str = "") -> None:
    """A line of a stage's report: a label in a column of its own, and what there is to say."""
    print(f"{label:<13}{text}".rstrip(), flush=True)


def read_json(path: Path) -> dict[str, Any]:
    """An object that a stage has written, empty if there is no such file. Raises InputError if it is no object."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); remove it") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: damaged; remove it")
    return value


def as_json(value: Any) -> Any:
    """The value as it comes back from a JSON file."""
    return json.loads(json.dumps(value))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """JSON Lines. Half a character is written as JSON's escape, what JSON does not have as text."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min {rest} s"
