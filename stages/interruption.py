"""Signals that ask a stage to stop, and the lock that keeps a second one from its result."""

import fcntl
import os
import signal
from pathlib import Path

from rlhf.errors import InputError

STOPPED = "interrupted; the same command starts it again"


class Interrupted(KeyboardInterrupt):
    """A signal asked the stage to stop."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.signal = number


class Interruption:
    """SIGINT and SIGTERM: in a loop that looks at `asked` the first one lets it end its step and save; else they stop at once."""

    def __init__(self):
        self.asked: int | None = None
        self.stopped: int | None = None  # by this signal, at once
        self.in_loop = False

    def listen(self) -> None:
        self.asked, self.stopped, self.in_loop = None, None, False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame) -> None:
        if not self.in_loop or self.asked:
            self.stopped = number
            raise Interrupted(number, STOPPED)
        self.asked = number
        # not print, which may be what was interrupted
        os.write(2, b"\ninterrupted: saving after this step; once more stops at once\n")


interruption = Interruption()


def lock(folder: Path) -> int:
    """Locks a folder for as long as this process lives; a dead process holds no lock.

    Raises InputError if another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"another process is at work in {folder}: wait for it, or stop it") from error
    return descriptor
