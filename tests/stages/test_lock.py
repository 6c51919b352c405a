"""The lock of a folder is held by one living process."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rlhf import InputError
from stages.common.interruption import lock
from tests.forks import ROOT
from tests.pipeline import TOY, environment, make_here

HOLD = """
import sys, time
from pathlib import Path
from stages.common.interruption import lock
descriptor = lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_is_exclusive_and_ends_with_its_process(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is working in"):
            lock(tmp_path)
        holder.send_signal(signal.SIGKILL)
    started = time.time()
    os.close(lock(tmp_path))
    assert time.time() - started < 1


def test_a_second_make_in_the_same_run_is_refused(run, capsys):
    descriptor = lock(run)
    try:
        assert "another process is working in" in make_here("ppo", capsys, run, ARGS="--kl_coef 0.5", status=2)
        assert "up to date" in make_here("ppo", capsys, run)  # which runs no stage
    finally:
        os.close(descriptor)


def test_a_signal_to_make_ends_its_stage(run):
    """SIGTERM to the program that make starts: the stage saves and ends, and so does the program."""
    variables = environment(RUN=str(run), RECIPE=TOY, ARGS="--total_episodes 6400 --show_samples 0")
    command = [sys.executable, "-m", "stages", "ppo"]
    with subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while line := process.stdout.readline():
            if line.split()[:1] == ["3"]:
                process.send_signal(signal.SIGTERM)
                break
        output = process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM and "saved after step" in output
    os.close(lock(run))
