"""How a stage ends after an error: its exit status, and a message for what the user can correct."""

import errno
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from rlhf import InputError, first_line
from stages.common.console import print_error
from stages.common.interruption import STOPPED, interruption
from stages.common.processes import leave_status, lost_another, process_rank, wait_for_status

# errors of writing that the user can correct: no space, no permission, a file in the way
_CORRECTABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT
}  # fmt: skip

hints: list[Callable[[], str]] = []  # the last one says what the stage needs, and what would fit


def end(name: str, error: BaseException, folder: Path | None) -> None:
    """Ends the stage after an error: with a message, if the user can correct it; otherwise raises it.

    `folder` is where processes of the stage tell each other their status.
    """
    if lost_another(error):
        known = wait_for_status(folder)
        if known is None and process_rank() == 0:
            print_error(f"{name}: another process of this stage was killed; the same command starts it again", True)
        sys.exit(128 + signal.SIGKILL if known is None else known)
    status, message = status_of(error)
    is_first = leave_status(folder, status)
    if is_first and message:
        print_error(f"{name}: {message}", blank=True)
    if is_first and not message:
        raise error
    sys.exit(status)


def status_of(error: BaseException) -> tuple[int, str]:
    """The exit status after an error, and a message for the user; the message is "" after a defect of the program."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + getattr(error, "signal", signal.SIGINT), str(error) or "interrupted"
    if interruption.raised and isinstance(error, InputError):  # a library turned the interruption into another error
        return 128 + interruption.raised, STOPPED
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, SafetensorError) or (isinstance(error, OSError) and error.errno in _CORRECTABLE):
        return 2, f"{error}; finished results are unchanged"
    if isinstance(error, MemoryError | RuntimeError) and is_out_of_memory(error):
        return 2, f"not enough memory{': ' + hints[-1]() if hints else ' for these options: ' + first_line(error)}"
    return 1, ""


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory of the machine or the GPU is exhausted. torch raises RuntimeError for both."""
    return isinstance(error, MemoryError) or any(
        text in str(error) for text in ("out of memory", "can't allocate memory", "No executable batch size")
    )
