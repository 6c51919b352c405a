"""Stages that are interrupted, for tests."""

import os
import subprocess
import time
from pathlib import Path

from tests.forks import ONE_THREAD, ROOT
from tests.pipeline import command

SAVING = ("--save_steps", "1", "--save_minutes", "none")


def start(name: str, *arguments: str, run: Path, **kwargs) -> subprocess.Popen[str]:
    """Starts a stage in a process of its own."""
    environment = {**os.environ, **ONE_THREAD}
    return subprocess.Popen(command(name, *arguments, run=run), cwd=ROOT, env=environment, text=True, **kwargs)


def kill_at_step(step: int, name: str, *arguments: str, run: Path) -> Path:
    """Starts a stage, kills it once it has saved this step, and returns the folder of its checkpoints."""
    folder = run / f".{name}.partial" / "checkpoints"
    process = start(name, *SAVING, *arguments, run=run, stdout=subprocess.DEVNULL)
    while not list(folder.glob(f"step-*{step}")):
        assert process.poll() is None, f"{name} ended before step {step}"
        time.sleep(0.01)
    process.kill()
    process.wait()
    return folder
