"""Several processes of one stage: how many make starts, how they find each other, and what ends them all.

A launcher (make, torchrun, accelerate launch) describes the processes in environment variables: RANK, WORLD_SIZE and
others. The process of rank 0 is the main one: it locks, prints and writes.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType

from rlhf import InputError

GRACE = 20  # seconds that processes get to end after another one has failed
STATUS = ".status"  # in the folder of a partial result: the exit status of the first process that failed
# what gloo and NCCL report if another process has ended
LOST = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused", "NCCL", "Socket", "Store", "recvBytes")


def process_rank() -> int:
    """The number of this process, from 0; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def processes_launched() -> int:
    """The number of processes of this stage; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def connect(precision: str | None = None) -> str:
    """Connects the processes of a stage. Returns Accelerate's name for what connects them, NO for one process.

    A stage that trains passes its mixed precision; only such a stage shards its models if Accelerate uses FSDP. Raises
    InputError if the launcher's setting leaves each process alone, or is not supported.
    """
    count = processes_launched()
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if sharded and (count == 1 or precision is None):
        del os.environ["ACCELERATE_USE_FSDP"]
    if count == 1:
        return "NO"
    if process_rank():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from accelerate import PartialState

    from rlhf.models import device

    if device().type == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"  # without it Accelerate connects no processes on a CPU
    # the others wait for a reward function that the main process calls; a lost process is noticed at once in any case
    state = PartialState(cpu=device().type == "cpu", timeout=timedelta(days=1))
    if state.num_processes != count:
        raise InputError(
            f"{count} processes were started, but Accelerate sees {state.num_processes}: start them with "
            f"`make ... PROCESSES={count}`, or with torchrun"
        )
    if sharded and precision is not None:
        from rlhf.engine import start_sharding

        return start_sharding(device().type == "cpu", precision)
    return str(state.distributed_type.value)


def disconnect() -> None:
    """Ends the connection, so that torch does not warn of it."""
    if processes_launched() > 1 and "accelerate" in sys.modules:
        from accelerate import PartialState

        PartialState().destroy_process_group()


# --- starting ---------------------------------------------------------------------------------------------------------


def start(stage: str, argv: list[str], count: int | None = None, configuration: str | None = None) -> int:
    """Starts a stage in `count` processes and waits for them. Returns the status of the first that fails, 0 if none.

    The status is negative if a signal killed the process. With `configuration`, a file of Accelerate's, `accelerate
    launch` starts the processes, by default as many as the file says; otherwise the default is one.
    """
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: FrameType | None) -> None:
        if not children:
            sys.exit(128 + number)
        if number == signal.SIGTERM:  # Ctrl-C in a terminal sends SIGINT to the stage as well
            for child in children:
                child.send_signal(number)

    handlers = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    module = ["-m", f"stages.{stage}", *argv]
    environments: list[dict[str, str] | None] = [None]
    if configuration is not None:
        number = [] if count is None else [f"--num_processes={count}"]
        module = ["-m", "accelerate.commands.launch", "--config_file", configuration, *number, *module]
    elif count is not None and count > 1:
        environments = [*_environments(count)]
    children += [subprocess.Popen([sys.executable, *module], env=environment) for environment in environments]
    status = _wait(children)
    for signal_number, handler in handlers.items():
        signal.signal(signal_number, handler)
    return status


def _environments(count: int) -> list[dict[str, str]]:
    """The environment of each process, as torchrun would set it.

    torchrun itself imports torch before it starts a process, which would cost each stage two seconds.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        **{"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }
    common.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def _wait(children: list[subprocess.Popen[bytes]]) -> int:
    if len(children) == 1:
        return children[0].wait()
    deadline, first = float("inf"), 0
    while None in (statuses := [child.poll() for child in children]):
        if not first and (first := next((status for status in statuses if status), 0)):
            deadline = time.time() + GRACE
        if time.time() > deadline:
            for child in children:
                child.kill()
        time.sleep(0.02)
    return first or next((status for status in statuses if status), 0)


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- ending -----------------------------------------------------------------------------------------------------------


def lost_another(error: BaseException) -> bool:
    """Whether an error of a library says that another process of this stage has ended."""
    return processes_launched() > 1 and isinstance(error, RuntimeError) and any(text in str(error) for text in LOST)


def wait_for_status(folder: Path | None) -> int | None:
    """The exit status of the process that failed first, from `folder`; None if it was killed."""
    for _ in range(20):
        with suppress(OSError, ValueError):
            return int((folder / STATUS).read_text()) if folder else None
        time.sleep(0.1)
    return None


def leave_status(folder: Path | None, status: int) -> bool:
    """Tells the other processes the status with which this one ends. False if the main process ends with an error too.

    A process that is not the main one waits for that, so that an error which all processes have is printed once.
    """
    if processes_launched() == 1:
        return True
    if process_rank():
        time.sleep(2)
    try:
        if folder is not None:
            with open(folder / STATUS, "x") as file:
                file.write(str(status))
    except OSError:
        return process_rank() == 0
    return True
