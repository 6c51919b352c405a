"""The lock of a folder is held by one living process."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rlhf import InputError
from stages.common.interruption import lock

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
