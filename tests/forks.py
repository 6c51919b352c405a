"""Stages in processes of their own, forked from one that has imported everything: they start at once.

    server = Forks()
    status, printed = server.run("ppo", ["--recipe", "tests/toy.yaml", "--run", "runs/toy"])

`fork` is for whoever is such a process itself, and has not yet computed anything: threads do not survive a fork.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path

STAGES = ("data", "pretrain", "sft", "comparisons", "reward", "ppo", "samples", "evaluate")
ONE_THREAD = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def fork(stage: str, argv: list[str], log: Path) -> int:
    """Starts a stage whose words are added to `log`, and returns the number of its process."""
    from stages.cli import main

    module = import_module(f"stages.{stage}")
    log.parent.mkdir(parents=True, exist_ok=True)
    if pid := os.fork():
        return pid
    words = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
    os.dup2(words, 1)
    os.dup2(words, 2)
    sys.argv, status = [stage, *argv], 1
    try:
        main(stage, module.Options, module.work)
        status = 0
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


class Forks:
    """A process that forks stages for one that must not, such as pytest's."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parent.parent, env={**os.environ, **ONE_THREAD},
        )  # fmt: skip

    def run(self, stage: str, argv: list[str]) -> tuple[int, str]:
        """Runs a stage; its exit status, and all that it prints."""
        with tempfile.NamedTemporaryFile("r") as log:
            print(json.dumps([stage, argv, log.name]), file=self.process.stdin, flush=True)
            return int(self.process.stdout.readline()), log.read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    for stage in STAGES:
        import_module(f"stages.{stage}")
    for line in sys.stdin:
        stage, argv, log = json.loads(line)
        _, status = os.waitpid(fork(stage, argv, Path(log)), 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
