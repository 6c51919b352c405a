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
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from stages.common.programs import STAGES

ROOT = Path(__file__).parent.parent
ONE_THREAD = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def fork(
    stage: str, argv: list[str], log: Path, modules: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> int:
    """Starts a stage and returns its process id. Its output is appended to `log`; `modules` are folders to import from.

    `variables` are added to the environment.
    """
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
    os.environ.update({"PYTHONPATH": os.pathsep.join(modules), **(variables or {})})
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
        [result] = self.run_several(stage, argv, [{}], modules)
        return result

    def run_several(
        self, stage: str, argv: list[str], environments: Sequence[Mapping[str, str]], modules: Sequence[str] = ()
    ) -> list[tuple[int, str]]:
        """Runs a stage in several processes, with further variables for each; their exit statuses and outputs."""
        assert self.process.stdin and self.process.stdout
        with tempfile.TemporaryDirectory() as folder:
            logs = [Path(folder, str(number)) for number in range(len(environments))]
            order = [stage, argv, list(map(str, logs)), list(modules), list(environments)]
            print(json.dumps(order), file=self.process.stdin, flush=True)
            statuses = json.loads(self.process.stdout.readline())
            outputs = [log.read_bytes().decode() for log in logs]  # a carriage return stays one
            return list(zip(statuses, outputs, strict=True))

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    for stage in STAGES:
        import_module(f"stages.{stage}")
    for line in sys.stdin:
        stage, argv, logs, modules, environments = json.loads(line)
        processes = [
            fork(stage, argv, Path(log), modules, variables) for log, variables in zip(logs, environments, strict=True)
        ]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        print(json.dumps(statuses), flush=True)


if __name__ == "__main__":
    serve()
