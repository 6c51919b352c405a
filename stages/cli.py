"""What every stage does around its work: read its options, find its inputs, say what happens, and leave a record.

A stage writes into a folder beside its result and moves it into place when it has finished, so that a result is whole
or absent, and an older one is replaced only by a finished one.
"""

import json
import logging
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlhf.data import Row
from rlhf.errors import InputError
from stages.options import StageOptions, parse

RECORD = "stage.json"


class Stage:
    """Where a stage finds its inputs and leaves its result."""

    def __init__(self, name: str, options: StageOptions):
        self.name, self.options = name, options
        self.run = options.run_folder
        self.result = Path(options.output) if options.output else self.run / name
        self.folder = self.result.with_name(f".{self.result.name}.partial")
        self.started = time.time()

    def begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        say(f"\n{self.name}", "" if not self.result.exists() else f"replaces {self.result}")

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
        write_json(self.folder / RECORD, record)
        old = self.result.with_name(f".{self.result.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.result.exists():
            self.result.rename(old)
        self.folder.rename(self.result)
        shutil.rmtree(old, ignore_errors=True)
        say("", f"{_duration(seconds)}, in {self.result}")

    def model(self, given: str | None, made_by: str) -> str:
        """The model folder or hub id that an option names, or else the result of another stage."""
        return given or str(self._made(self.run / made_by, made_by, "model"))

    def rows(self, given: str | None, file: str, made_by: str = "data") -> Path:
        """The file of rows that an option names, or else one that another stage wrote."""
        return Path(given) if given else self._made(self.run / made_by / file, made_by, "rows")

    def _made(self, path: Path, made_by: str, what: str) -> Path:
        if not path.exists():
            raise InputError(f"no {what} at {path}: run `make {made_by}` first")
        return path

    def record(self, stage: str) -> dict[str, Any]:
        """What another stage of this run has recorded; empty if it has not run."""
        path = self.run / stage / RECORD
        return json.loads(path.read_text()) if path.is_file() else {}


def main(name: str, options_class: type[StageOptions], work: Callable[[Any, Stage], dict[str, Any]]) -> None:
    """Runs a stage from the command line. Exit status 2 for what a person can mend, 130 after Ctrl-C."""
    quiet_libraries()
    try:
        options = parse(options_class, name)
        stage = Stage(name, options)
        stage.begin()
        stage.finish(work(options, stage) or {})
    except InputError as error:
        sys.exit(_fail(name, str(error), 2))
    except KeyboardInterrupt:
        sys.exit(_fail(name, "interrupted; what other stages had finished is untouched", 130))


def _fail(name: str, message: str, status: int) -> int:
    print(f"\n{name}: {message}", file=sys.stderr, flush=True)
    return status


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


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """JSON Lines."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
