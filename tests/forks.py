"""Stages in processes of their own, forked from one that has imported everything: they start at once.

    server = Forks()
    status, output = server.run("ppo", ["--recipe", "tests/toy.yaml", "--run", "runs/toy"])

`fork` is for a process like that itself, one that has not computed anything yet: threads do not survive a fork.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from stages.common.programs import STAGES

ROOT = Path(__file__).parent.parent
ONE_THREAD = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def fork(stage: str, argv: list[str], log: Path, modules: Sequence[str] = ()) -> int:
    """Starts a stage and returns its process id. Its output is appended to `log`; `modules` are folders to import from."""
    from stages.common.stage import main

    work = import_module(f"stages.{stage}").work
    log.parent.mkdir(parents=True, exist_ok=True)
    if pid := os.fork():
        return pid
    output = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv, status = [stage, *argv], 1
    sys.path[:0] = modules
    os.environ["PYTHONPATH"] = os.pathsep.join(modules)
    try:
        main(stage, work)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


class Forks:
    """A server process that forks stages, for a process that must not fork itself, such as pytest's."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=ROOT, env={**os.environ, **ONE_THREAD},
        )  # fmt: skip

    def run(self, stage: str, argv: list[str], modules: Sequence[str] = ()) -> tuple[int, str]:
        """Runs a stage; its exit status and its output."""
        assert self.process.stdin and self.process.stdout
        with tempfile.NamedTemporaryFile("r", newline="") as log:  # a carriage return stays one
            print(json.dumps([stage, argv, log.name, list(modules)]), file=self.process.stdin, flush=True)
            return int(self.process.stdout.readline()), log.read()

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    for stage in STAGES:
        import_module(f"stages.{stage}")
    for line in sys.stdin:
        stage, argv, log, modules = json.loads(line)
        _, status = os.waitpid(fork(stage, argv, Path(log), modules), 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
