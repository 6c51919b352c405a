"""What every stage does around its work: read its options, find its inputs, and leave a result with a record.

A stage writes into a folder beside its result and renames it when it has finished. So a result is complete or absent, and
an older one is replaced only by a finished one, and is kept as <stage>.previous.
"""

import errno
import gc
import logging
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlhf import InputError
from rlhf.rows import Row, write_rows
from rlhf.run.files import replace, write_json
from stages.common.code import code_hash
from stages.common.console import duration, say
from stages.common.interruption import STOPPED, interruption, lock
from stages.common.options import StageOptions
from stages.common.parsing import FUNCTIONS, PLACES, Parsed, check_values, parse_given
from stages.common.recipe import SETTINGS
from stages.common.run import BEGUN, CHECKPOINTS, INPUT, RECORD, Run, record_of

# options that change what is shown, logged or saved on the way, and not the result
SILENT_OPTIONS = {*PLACES, "show_samples", "log_with", "save_steps", "save_minutes", "save_total_limit"}


class Stage:
    """Where a stage finds its inputs and leaves its result."""

    def __init__(self, name: str, parsed: Parsed, arguments: list[str] | None = None):
        """`arguments` is the command line."""
        self.name, self.parsed, self.options = name, parsed, parsed.options
        self.arguments = without_places(arguments or [])
        self.run = Run(self.options.run_folder, self.options.base)
        self.result = Path(self.options.output) if self.options.output else self.run.folder / name
        self.partial = self.result.with_name(f".{self.result.name}.partial")
        self.previous = self.result.with_name(f"{self.result.name}.previous")
        self.inputs: dict[str, str] = {}  # name -> SHA-256, see `Run.hash`
        self.code = code_hash(name, functions_of(self.options))  # now: files may be edited while the stage runs
        self.started = time.time()

    def begin(self) -> bool:
        """Locks the result, and returns whether there is work to do."""
        self.partial.mkdir(parents=True, exist_ok=True)
        self.lock = lock(self.partial)
        print(f"\n{self.name}", flush=True)
        if self.recovered():
            say(f"had finished when it was interrupted, in {self.result}")
            return False
        for path in self.partial.iterdir():
            if path.name not in (CHECKPOINTS, BEGUN):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return True

    def recovered(self) -> bool:
        """Recovers from a stage killed between writing its result and renaming it; whether that is this one's result."""
        if record := record_of(self.partial):
            replace(self.partial, self.result, self.previous)
            if not difference(record["options"], self.parsed.as_dict()):
                return True
            self.partial.mkdir()
            self.lock = lock(self.partial)
        elif self.previous.exists() and not self.result.exists():
            self.previous.rename(self.result)
        return False

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the record, renames the result into place and prints where it is."""
        seconds = time.time() - self.started
        libraries = ("torch", "transformers", "datasets", "trl", "accelerate")
        record = {
            "stage": self.name,
            "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            **self.made_from(),
            "versions": {library: version(library) for library in libraries},
            **summary,
        }
        (self.partial / BEGUN).unlink(missing_ok=True)
        write_json(self.partial / RECORD, record)
        replace(self.partial, self.result, self.previous)
        self.run.save_hashes()
        if not (settings := self.run.folder / SETTINGS).exists():
            write_json(settings, {"recipe": self.options.recipe, "seed": None, "base": self.options.base})
        say(f"{duration(seconds)}, in {self.result}")

    def made_from(self) -> dict[str, Any]:
        """What the result depends on: options, and which of them are not defaults, command line, inputs, code."""
        return {
            "options": self.parsed.as_dict(),
            "given": sorted(self.parsed.given),
            "arguments": self.arguments,
            "inputs": self.inputs,
            "code": self.code,
        }

    def keep_batch(self, step: int, rows: Iterable[Row]) -> Path:
        """Writes the batch whose numbers diverged to a file that no later run removes."""
        path = self.run.folder / f"{self.name}-stopped-in-step-{step}.jsonl"
        write_rows(path, rows)
        return path

    # --- inputs -------------------------------------------------------------------------------------------------------

    def model(self, given: str | None, stage: str) -> str:
        """The model folder or hub id that an option gives, or else the result of another stage."""
        if given:
            return str(self.input(given))
        return str(self.made(stage, "model"))

    def rows(self, given: str | None, file: str, stage: str = "data") -> Path:
        """The file of rows that an option gives, or else one that another stage wrote."""
        return self.input(given) if given else self.made(f"{stage}/{file}", "rows")

    def made(self, name: str, what: str) -> Path:
        """The result of another stage, or a file in it. Raises InputError if it is missing."""
        path = self.input(f"{INPUT}{name}")
        if not path.exists():
            raise InputError(f"no {what} at {path}: run `make {name.partition('/')[0]}` first")
        return path

    def input(self, name: str) -> Path:
        """The path of an input, which the record will name with its hash, also if it does not exist."""
        self.inputs[name] = self.run.hash(name)
        return self.run.path(name)


def functions_of(options: StageOptions) -> list[str]:
    """The functions, module:function, that the options name."""
    return [value for name in FUNCTIONS if (value := getattr(options, name, None))]


def difference(options: dict[str, Any], others: dict[str, Any]) -> list[str]:
    """The names of the options of `others` that differ from `options`, those aside that do not change a result."""
    return [name for name in others if name not in SILENT_OPTIONS and options.get(name) != others[name]]


def without_places(argv: list[str]) -> list[str]:
    """A command line without --recipe, --run, --base and --output: what a later `make` repeats elsewhere."""
    result, skip = [], False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        if name.startswith("--"):
            skip = name[2:] in PLACES
            if skip:
                continue
        if not skip:
            result.append(argument)
    return result


# --- from the command line --------------------------------------------------------------------------------------------


def main(name: str, work: Callable[[Any, Stage], dict[str, Any] | None]) -> None:
    """Runs a stage. Exit status 2 for an error that the user can correct, 130 after Ctrl-C, 143 after SIGTERM."""
    gc.freeze()
    gc.enable()
    warnings.filterwarnings("ignore")  # of libraries: the user can't act on them
    for library in ("accelerate", "trl", "torch"):
        logging.getLogger(library).setLevel(logging.ERROR)
    interruption.listen()
    try:
        parsed = parse_given(name, sys.argv[1:])
        check_values(parsed.options)
        stage = Stage(name, parsed, sys.argv[1:])
        if stage.begin():
            warn_about_bf16(parsed.options)
            stage.finish(work(stage.options, stage) or {})
    except InputError as error:
        if interruption.raised:  # a library turned the interruption into an error
            sys.exit(_fail(name, STOPPED, 128 + interruption.raised))
        sys.exit(_fail(name, str(error), 2))
    except OSError as error:
        if error.errno not in _CORRECTABLE:
            raise
        sys.exit(_fail(name, f"{error}; finished results are unchanged", 2))
    except KeyboardInterrupt as error:
        sys.exit(_fail(name, str(error) or "interrupted", 128 + getattr(error, "signal", signal.SIGINT)))


def warn_about_bf16(options: StageOptions) -> None:
    """Prints a warning if bf16 is on and slower than fp32 on this CPU."""
    if not getattr(options, "bf16", False):
        return
    from rlhf.engine import bf16_slowdown
    from rlhf.models import device

    if device().type == "cpu" and (slowdown := bf16_slowdown()) > 2:
        say(f"warning: bf16 takes {slowdown:.0f} times as long as fp32 on this CPU, which has no bf16 instructions")


# errors of a place to write to: no space, no permission, a file in the way
_CORRECTABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT
}  # fmt: skip


def _fail(name: str, message: str, status: int) -> int:
    print(f"\n{name}: {message}", file=sys.stderr, flush=True)
    return status
