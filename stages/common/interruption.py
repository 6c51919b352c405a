"""Handling of SIGINT and SIGTERM, and the lock that keeps a second process away from a result."""

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rlhf import InputError
from stages.common.processes import process_rank

STOPPED = "interrupted; the same command starts it again"


class Interrupted(KeyboardInterrupt):
    """A signal asked the stage to stop."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.signal = number


class Interruption:
    """SIGINT and SIGTERM.

    Inside a training loop (`in_loop`), the first signal sets `requested`, so that the loop saves and stops. A second
    signal, or one outside a loop, stops the stage at once.
    """

    def __init__(self) -> None:
        self.requested: int | None = None  # the signal that asked the loop to stop
        self.raised: int | None = None  # the signal that stopped the stage at once
        self.in_loop = False

    def listen(self) -> None:
        """Installs the signal handlers and resets the state."""
        self.requested, self.raised, self.in_loop = None, None, False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.in_loop or self.requested:
            self.raised = number
            raise Interrupted(number, STOPPED)
        self.requested = number
        # os.write, because the signal may have interrupted a print
        if process_rank() == 0:
            os.write(2, b"\ninterrupted: saving after this step; a second signal stops at once\n")


interruption = Interruption()


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """A context in which Ctrl-C raises nothing; yields a function that tells whether it was pressed."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def foreground() -> Iterator[None]:
    """A context in which the terminal's signals go to this process alone.

    Otherwise a second Ctrl-C would end the make that waits for this process, and the shell would take the terminal back.
    """
    group, leads = os.getpgrp(), os.getpgrp() == os.getpid()
    if leads or not os.isatty(0):
        yield
        return
    # Ctrl-Z would stop this process alone, and nothing would continue it
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTTOU, signal.SIGTSTP)}
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    try:
        yield
    finally:
        os.tcsetpgrp(0, group)
        os.setpgid(0, group)
        for number, handler in before.items():
            signal.signal(number, handler)


def lock(folder: Path) -> int:
    """Locks a folder and returns the descriptor that holds the lock. The kernel releases it when the process ends.

    Raises InputError if another process holds the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"another process is working in {folder}: wait for it, or stop it") from error
    return descriptor
