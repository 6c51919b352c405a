"""Running stages and make as a user does, for tests."""

import atexit
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.forks import Forks

ROOT = Path(__file__).parent.parent
STAGES = ("data", "pretrain", "sft", "comparisons", "reward", "ppo")


def shell(*command, status: int = 0, **environment) -> str:
    """Runs a command in the project's folder, and returns all that it prints."""
    # not what a make around the tests was told
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("ARGS", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    }
    given = {**inherited, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        command, cwd=ROOT, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
    )
    assert done.returncode == status, done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    assert "Warning" not in done.stdout, done.stdout
    return done.stdout


def make(*arguments, run, recipe="tests/toy.yaml", status: int = 0, **environment) -> str:
    """make with the environment that the tests run in, which it takes as ready."""
    return shell(
        "make",
        "--no-print-directory",
        f"PY={sys.executable}",
        f"READY={ready()}",
        f"RECIPE={recipe}",
        f"RUN={run}",
        *arguments,
        status=status,
        **environment,
    )


@cache
def ready() -> Path:
    """A file that says that the environment is newer than what it is made of."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    path = Path(folder.name, "ready")
    path.touch()
    return path


def command(name, *arguments, run) -> list[str]:
    """The command line of a stage at toy size, for what needs a process of its own."""
    return [sys.executable, "-u", "-m", f"stages.{name}", "--recipe", "tests/toy.yaml", "--run", str(run), *arguments]


@cache
def forks() -> Forks:
    server = Forks()
    atexit.register(server.close)
    return server


def stage(name, *arguments, run, recipe="tests/toy.yaml", status: int = 0) -> str:
    """Runs a stage, and returns all that it prints."""
    ended, printed = forks().run(name, ["--recipe", str(recipe), "--run", str(run), *map(str, arguments)])
    assert ended == status, printed
    assert "Traceback" not in printed and "Warning" not in printed, printed
    return printed


def finished(run: Path) -> dict[str, str]:
    """When each stage has finished."""
    return {
        name: json.loads((run / name / "stage.json").read_text())["finished"] + str((run / name).stat().st_ino)
        for name in STAGES
    }
