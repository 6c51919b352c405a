"""Running stages and make as a user does, for tests."""

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from stages.common import pipeline
from stages.common.options import CHAIN
from tests.forks import ROOT, Forks

TOY = "tests/toy.yaml"
# not the variables of a make around the tests
_MAKE = (
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "MAKEOVERRIDES",
    "ARGS",
    "RECIPE",
    "RUN",
    "BASE",
    "SEED",
    "PROMPT",
    "REMAKE",
    "PROCESSES",
    "ACCELERATE",
)


def environment(**variables: str) -> dict[str, str]:
    """The environment of a command: offline, one thread."""
    inherited = {name: value for name, value in os.environ.items() if name not in _MAKE}
    return {**inherited, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **variables}


def shell(*command: str, status: int = 0, **variables: str) -> str:
    """Runs a command in the project's folder; its output."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=600,
    )
    return checked(done.returncode, done.stdout, status)


def checked(status: int, output: str, expected: int) -> str:
    """The output of a command that ended with the expected status, and without a traceback or a warning."""
    assert status == expected, output
    assert "Traceback" not in output, output
    assert "Warning" not in output, output
    return output


def make(*arguments: str, run: Path, recipe: Path | str = TOY, status: int = 0, **variables: str) -> str:
    """make, with the environment of the tests as its virtual environment."""
    words = (f"VENV={venv()}", f"RECIPE={recipe}", f"RUN={run}", *arguments)
    return shell("make", "--no-print-directory", *words, status=status, **variables)


@cache
def venv() -> Path:
    """A virtual environment for make that is ready, whose Python is that of the tests."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    python = Path(folder.name, "bin", "python")
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    Path(folder.name, "ready").touch()
    return Path(folder.name)


def command(name: str, *arguments: str, run: Path) -> list[str]:
    """The command line of a stage at toy size, for a test that needs a process of its own."""
    return [sys.executable, "-u", "-m", f"stages.{name}", "--recipe", TOY, "--run", str(run), *arguments]


@cache
def forks() -> Forks:
    server = Forks()
    atexit.register(server.close)
    return server


def stage(
    name: str,
    *arguments: object,
    run: Path | str,
    recipe: Path | str = TOY,
    status: int = 0,
    modules: Sequence[Path] = (),
) -> str:
    """Runs a stage; its output. `modules` are folders to import reward functions from."""
    argv = ["--recipe", str(recipe), "--run", str(run), *map(str, arguments)]
    return checked(*forks().run(name, argv, list(map(str, modules))), status)


def make_here(goal: str, capsys, run: Path, recipe: Path | str | None = TOY, status: int = 0, **variables: str) -> str:
    """What `make GOAL` does, in this process and with forked stages, which is faster; its output."""

    def start(name: str, argv: list[str], *launch: object) -> int:
        ended, output = forks().run(name, argv)
        print(output, end="")
        return ended

    variables = {"RUN": str(run), **({"RECIPE": str(recipe)} if recipe else {}), **variables}
    argv = ["stages", goal]
    with patch.object(pipeline, "start", start), patch.object(sys, "argv", argv), patch.dict(os.environ):
        for name in _MAKE:
            os.environ.pop(name, None)
        os.environ.update(variables)
        ended = 0
        try:
            pipeline.main()
        except SystemExit as error:
            ended = error.code if isinstance(error.code, int) else 1
    captured = capsys.readouterr()
    return checked(ended, captured.out + captured.err, status)


def finished(run: Path) -> dict[str, str]:
    """A mark of each finished result that changes when the stage is made again."""
    folders = {name: run / name for name in CHAIN if (run / name / "stage.json").is_file()}
    return {
        name: json.loads((folder / "stage.json").read_text())["finished"] + str(folder.stat().st_ino)
        for name, folder in folders.items()
    }


def record(run: Path, name: str) -> dict:
    """The record of a finished stage."""
    return json.loads((run / name / "stage.json").read_text())
