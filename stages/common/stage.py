"""What all stages have in common: they read options, find inputs, and write a result with a record.

A stage writes into a temporary folder, which is renamed to the result when the stage has finished. So a result is
complete or absent. Only a finished result replaces an older one, which is kept as <stage>.previous.
"""

import gc
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from rlhf import InputError, first_line
from rlhf.adapters.folders import base_of, is_adapter
from rlhf.rows import Row, write_rows
from rlhf.run.files import replace, write_json
from stages.common.card import write_card
from stages.common.code import code_hash
from stages.common.console import duration, escape_unencodable, print_lines, say, stdout_closed
from stages.common.ending import end
from stages.common.interruption import interruption, lock
from stages.common.machine import peak_memory, this_machine
from stages.common.options import PLACES, StageOptions
from stages.common.parsing import Parsed, check_values, functions_of, parse_given
from stages.common.processes import STATUS, connect, disconnect, process_rank, processes_launched
from stages.common.programs import STAGES, TOOLS, place_of
from stages.common.run import BEGUN, CHECKPOINTS, INPUT, RECORD, Run, record_of

# options that change what is printed, logged or saved during the run, but not the result
SILENT_OPTIONS = {*PLACES, "show_samples", "log_with", "save_steps", "save_minutes", "save_total_limit"}
LARGE_FILE = 5 * 10**7  # bytes


class Stage:
    """A stage's options, inputs, result folder and record."""

    def __init__(self, name: str, parsed: Parsed, arguments: list[str] | None = None, module: str = ""):
        """`arguments` is the command line without the program name; `module` of stages/ runs in place of its own."""
        self.name, self.parsed, self.options = name, parsed, parsed.options
        self.arguments = without_places(arguments or [])
        self.run = Run(self.options.run_folder, self.options.base, self.options.results)
        self.result = Path(self.options.output or self.run.folder / place_of(name, self.options))
        self.shared = self.result.with_name(f".{self.result.name}.partial")
        # only the main process writes the result; what a library makes the others write is thrown away
        self.partial = Path(mkdtemp(prefix=f"{name}-")) if process_rank() else self.shared
        self.distributed = "NO"  # Accelerate's name for what connects the processes of the stage
        self.begun = False
        self.previous = self.result.with_name(f"{self.result.name}.previous")
        self.inputs: dict[str, str] = {}  # name -> SHA-256, see `Run.hash`
        # now, because files may be edited while the stage runs
        self.code = code_hash(module or name, functions_of(self.options))
        self.started = time.time()
        self.seconds_before = 0.0  # that an interrupted run took before it was resumed

    def begin(self) -> bool:
        """Locks the result and clears the temporary folder. False if the result was already finished."""
        unfinished = self.on_main(self._begin)
        self.begun = True
        return unfinished

    def on_main(self, work: Callable[[], Any]) -> Any:
        """What `work` returns in the main process, in each process."""
        if processes_launched() == 1:
            return work()
        from rlhf.engine import on_main

        return on_main(work)

    def _begin(self) -> bool:
        self.partial.mkdir(parents=True, exist_ok=True)
        self.lock = lock(self.partial)
        processes, computes = processes_launched(), ""
        if self.name != "data":
            computes = f"  ({processes} process{'es' * (processes > 1)}, distributed: {self.distributed})"
        print_lines("", f"{self.name}{computes}")
        if self.recover():
            say(f"had finished when it was interrupted, in {self.result}")
            return False
        for path in self.partial.iterdir():
            if path.name not in (CHECKPOINTS, BEGUN):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return True

    def recover(self) -> bool:
        """Recovers from a kill between writing a result and renaming it.

        True if that result is the one that this stage would make.
        """
        record = record_of(self.partial)
        if not record:
            return False
        replace(self.partial, self.result, self.previous)
        inputs = {name: self.run.hash(name) for name in record["inputs"]}
        same = record["inputs"] == inputs and record["code"] == self.code and self.name != "samples"
        if same and not difference(record["options"], self.parsed.as_dict()):
            return True
        self.partial.mkdir()
        self.lock = lock(self.partial)
        return False

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the record, renames the result into place and prints where it is."""
        self.on_main(lambda: self._finish(summary))

    def _finish(self, summary: dict[str, Any]) -> None:
        seconds = self.seconds()
        libraries = ("torch", "transformers", "datasets", "trl", "accelerate")
        record = {
            "stage": self.name,
            "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "cpu_seconds": round(time.process_time(), 1),  # of this process since it was started or resumed
            **self.made_from(),
            "processes": processes_launched(),
            "distributed": self.distributed,
            "machine": this_machine(),
            "peak_memory": peak_memory(),
            "versions": {library: version(library) for library in libraries},
            **summary,
        }
        for name in (BEGUN, STATUS):
            (self.partial / name).unlink(missing_ok=True)
        write_card(self.partial, record, self.run)
        write_json(self.partial / RECORD, record)
        make_readable(self.partial)
        replace(self.partial, self.result, self.previous)
        self.run.save_hashes()
        say(f"{duration(seconds)}, in {self.result}")

    def seconds(self) -> float:
        """The time that the stage has taken so far, with that before it was resumed."""
        return self.seconds_before + time.time() - self.started

    def made_from(self) -> dict[str, Any]:
        """Everything that the result depends on: options, the names of those that are set, arguments, inputs, code."""
        return {
            "options": self.parsed.as_dict(),
            "given": sorted(self.parsed.given),
            "arguments": self.arguments,
            "inputs": self.inputs,
            "code": self.code,
        }

    def keep_batch(self, step: int, rows: Iterable[Row]) -> Path:
        """Writes the batch of a step that diverged to a file that no later run removes; returns its path."""
        path = self.result.parent / f"{self.name}-stopped-in-step-{step}.jsonl"
        if process_rank() == 0:
            write_rows(path, rows)
        return path

    def close(self) -> None:
        """Removes what a process that is not the main one has written."""
        if self.partial != self.shared:
            shutil.rmtree(self.partial, ignore_errors=True)

    def check_saving(self, *savers: Callable[[Path], object]) -> None:
        """Saves the untrained models into the temporary folder, and removes them, before the first step.

        So a model that can't be saved, or a full disk, stops the stage before hours of training. The state of the
        global random generators does not change. Raises InputError.
        """
        from rlhf.run.randomness import random_state, set_random_state

        state, trial = random_state(), self.partial / ".trial"
        try:
            trial.mkdir()
            for save in savers:
                save(trial)
        except Exception as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"stopped before training, because the model can't be saved in {self.partial}: "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
        finally:
            shutil.rmtree(trial, ignore_errors=True)
            set_random_state(state)

    # --- inputs -------------------------------------------------------------------------------------------------------

    def model(self, option: str | None, stage: str) -> str:
        """The model folder or hub id that an option names or, if it is None, the result of another stage."""
        source = str(self.input(option)) if option else str(self.made(stage, "model"))
        self.base(source)
        return source

    def base(self, source: str) -> None:
        """Registers the model that the adapter in a folder was trained on, if it is one, as an input."""
        if is_adapter(source):
            base = base_of(source)
            names = (f"{INPUT}{name}" for name in STAGES)
            self.input(next((n for n in names if self.run.path(n).resolve() == Path(base).resolve()), base))
            self.base(base)

    def rows(self, option: str | None, file: str, stage: str = "data") -> Path:
        """The file of rows that an option names or, if it is None, a file in another stage's result.

        Prints its size if reading it takes some seconds. Raises InputError for a folder.
        """
        path = self.run.path(option or f"{INPUT}{stage}/{file}")
        if path.is_dir():  # before all of its files are hashed
            raise InputError(f"{path} is a folder: name a file of rows")
        if path.is_file() and (size := path.stat().st_size) > LARGE_FILE:
            say(f"reads {path}, {size / 10**6:,.0f} MB")
        return self.input(option) if option else self.made(f"{stage}/{file}", "rows")

    def made(self, name: str, content: str) -> Path:
        """The path of another stage's result, or of a file in it. Raises InputError if it does not exist."""
        path = self.input(f"{INPUT}{name}")
        if not path.exists():
            raise InputError(f"no {content} at {path}: run `make {name.partition('/')[0]}` first")
        return path

    def record(self, stage: str) -> dict[str, Any]:
        """The record of another stage; empty if it has not finished."""
        return record_of(self.input(f"{INPUT}{stage}/{RECORD}").parent)

    def input(self, name: str) -> Path:
        """The path of an input, which may not exist. Registers its hash for the record."""
        self.inputs[name] = self.run.hash(name)
        return self.run.path(name)


def make_readable(folder: Path) -> None:
    """Gives files that only the user may read, as safetensors makes them, the permissions of other new files."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o077 == 0:
            path.chmod(0o666 & ~umask)


def difference(options: dict[str, Any], others: dict[str, Any]) -> list[str]:
    """The names of options that differ in `others`, without those that do not change a result."""
    return [name for name in others if name not in SILENT_OPTIONS and options.get(name) != others[name]]


def without_places(argv: list[str]) -> list[str]:
    """A command line without --recipe, --run, --base and --output, which a later `make` may set differently."""
    result, skip = [], False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        if name.startswith("--"):
            skip = name[2:].replace("-", "_") in PLACES
            if skip:
                continue
        if not skip:
            result.append(argument)
    return result


# --- from the command line --------------------------------------------------------------------------------------------


def main(name: str, work: Callable[[Any, Stage], dict[str, Any] | None], module: str = "") -> None:
    """Runs a stage, or a tool, which uses finished results and makes none.

    `module` of stages/ is the one that runs, if it is not the stage's own: its code is part of what the result is of.

    Exit status 2 for an error that the user can correct, 130 after Ctrl-C, 143 after SIGTERM, 141 if nothing reads its
    output any more.
    """
    gc.freeze()
    gc.enable()
    escape_unencodable()
    warnings.filterwarnings("ignore")  # warnings of libraries, which the user can't act on
    for library in ("accelerate", "trl", "torch"):
        logging.getLogger(library).setLevel(logging.ERROR)
    interruption.listen()
    stage: Stage | None = None
    try:
        parsed = parse_given(name, sys.argv[1:])
        check_values(parsed.options)
        if name == "data" and process_rank():
            return  # nothing to compute
        distributed = "NO" if name == "data" else connect(getattr(parsed.options, "mixed_precision", None))
        stage = Stage(name, parsed, sys.argv[1:], module)
        stage.distributed = distributed
        if name in TOOLS:
            work(stage.options, stage)
        elif stage.begin():
            warn_about_bf16(parsed.options)
            stage.finish(work(stage.options, stage) or {})
        disconnect()
    except BrokenPipeError:
        sys.exit(stdout_closed())
    except (Exception, KeyboardInterrupt) as error:
        end(name, error, stage.shared if stage and stage.begun else None)
    finally:
        if stage is not None:
            stage.close()


def warn_about_bf16(options: StageOptions) -> None:
    """Prints a warning if bf16 is on and slower than fp32 on this CPU."""
    if not getattr(options, "bf16", False):
        return
    from rlhf.engine import bf16_slowdown
    from rlhf.models import device

    if device().type == "cpu" and (slowdown := bf16_slowdown()) > 2:
        say(f"warning: bf16 takes {slowdown:.0f} times as long as fp32 on this CPU, which has no bf16 instructions")
