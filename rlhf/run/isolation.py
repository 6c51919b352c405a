"""Isolates the run from a user's function: from its random numbers, output, changes of folder and calls of exit."""

import asyncio
import functools
import inspect
import io
import os
import random
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch

from rlhf import InputError
from rlhf.run.randomness import random_state, set_random_state

OUTPUT_LIMIT = 2000  # characters of a call's output that are kept


@contextmanager
def isolated(seed: int, show: Callable[[str], None]) -> Iterator[None]:
    """A context for calls of a user's functions. The global random generators and the current folder are restored.

    The generators of Python, numpy and torch are seeded with `seed`. `show` gets what was printed, at most
    `OUTPUT_LIMIT` characters of it. Output of subprocesses is not held back.
    """
    state, folder, output = random_state(), os.open(".", os.O_RDONLY), _Output()
    try:
        with redirect_stdout(output), redirect_stderr(output):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
    finally:
        os.fchdir(folder)
        os.close(folder)
        set_random_state(state)
        if text := output.text():
            show(text)


@contextmanager
def errors_of(function: Callable[..., Any]) -> Iterator[None]:
    """Turns what a user's function raises into an InputError that names it, `exit` and KeyboardInterrupt included.

    A signal that stops the run is passed on.
    """
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
        if isinstance(error, KeyboardInterrupt) and _is_from_a_signal(error):
            raise
        what = "called exit" if isinstance(error, SystemExit) else f"raised {type(error).__name__}: {error}"
        raise InputError(f"{name_of(function)} {what} ({_origin(function, error)})") from error


def name_of(function: Callable[..., Any]) -> str:
    """The function's name, or the class of a callable object."""
    return getattr(function, "__qualname__", type(function).__qualname__)


def _is_from_a_signal(error: KeyboardInterrupt) -> bool:
    # The stages' handler raises a subclass. Python's own handler raises KeyboardInterrupt itself, and then nothing
    # distinguishes a signal from a function that raises it.
    return type(error) is not KeyboardInterrupt or signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _origin(function: Callable[..., Any], error: BaseException) -> str:
    """`file:line` of the innermost frame of the error in the function's file, or of the innermost frame of all."""
    frames = traceback.extract_tb(error.__traceback__)
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    frame = ([f for f in frames if code and f.filename == code.co_filename] or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}"


class _Output(io.StringIO):
    """Keeps the first `OUTPUT_LIMIT` characters that are written, and counts the others."""

    cut = 0

    def write(self, text: str, /) -> int:
        kept = text[: max(0, OUTPUT_LIMIT - len(self.getvalue()))]
        super().write(kept)
        self.cut += len(text) - len(kept)
        return len(text)

    def text(self) -> str:
        """What was written, with the number of characters that are left out."""
        return self.getvalue() + (f"\n... ({self.cut:,} more characters)" if self.cut else "")
