"""Output of the stages: lines with a label, errors, durations, progress bars.

Everything that is printed passes through here, where text from data, models and file names is escaped.
"""

import io
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from tqdm import tqdm

from rlhf import InputError
from rlhf.escape import printable

INDENT = " " * 13
Item = TypeVar("Item")
OUTPUT_LINES, ALL_OUTPUT_LINES = 10, 200  # of a user's function that are shown, for one call and for a whole stage
_shown_lines = 0
EARLY = 3  # seconds of work after which the time that is left can be told


def escape_unencodable() -> None:
    """Makes stdout show a character that its encoding lacks as an escape such as `\\xe9`, as Python does on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def stdout_closed() -> int:
    """The exit status of a program whose reader, such as `head`, has ended. Further output is discarded."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # otherwise Python fails again when it flushes at its end
    return 128 + signal.SIGPIPE


def print_lines(*lines: str) -> None:
    """Prints lines. A newline within one of them is escaped, so that text from data can't look like another line."""
    print("\n".join(map(printable, lines)), flush=True)


def say(text: str, label: str = "") -> None:
    """Prints a line, with the label in the first column."""
    print_lines(f"{label:<13}{text}".rstrip())


def write(text: str, indent: str) -> None:
    """Prints text without a newline at its end. Lines after a newline begin with `indent`, so they can't look like others."""
    print(f"\n{indent}".join(map(printable, text.split("\n"))), end="", flush=True)


def is_terminal() -> bool:
    """Whether a person types the input and reads the output."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask(prompt: str) -> str | None:
    """The next line of the input, without its newline; None at its end. It can be edited on a terminal.

    Input that does not come from a terminal is printed after the prompt. Raises InputError for a line that is not UTF-8.
    """
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors != "surrogateescape":
        sys.stdin.reconfigure(errors="surrogateescape")
    if is_terminal():
        with suppress(ImportError):
            import readline  # noqa: F401  input() then edits lines, and arrow keys bring earlier ones back
        try:
            line = input(prompt)
        except EOFError:
            print(flush=True)
            return None
    elif text := sys.stdin.readline():
        line = text.rstrip("\r\n")
        print_lines(f"{prompt}{line}")
    else:
        return None
    if any("\ud800" <= character <= "\udfff" for character in line):
        raise InputError("the line is not UTF-8")
    return line


def print_error(message: str, blank: bool = False) -> None:
    """Prints an error on stderr, below a blank line if `blank`. Further lines of the message begin with `  | `."""
    lines = "\n  | ".join(map(printable, message.rstrip("\n").split("\n")))
    print(f"\n{lines}" if blank else lines, file=sys.stderr, flush=True)


def show_output(text: str) -> None:
    """Prints what a user's function printed, behind a `|` and shortened: it may print in thousands of calls."""
    global _shown_lines
    lines = text.rstrip("\n").split("\n")
    if _shown_lines >= ALL_OUTPUT_LINES:
        return
    shown = [f"{INDENT}| {line}" for line in lines[:OUTPUT_LINES]]
    if len(lines) > OUTPUT_LINES:
        shown.append(f"{INDENT}| ... ({len(lines) - OUTPUT_LINES:,} more lines)")
    _shown_lines += len(shown)
    if _shown_lines >= ALL_OUTPUT_LINES:
        shown.append(f"{INDENT}further output of functions is not shown")
    tqdm.write("\n".join(map(printable, shown)), file=sys.stdout)
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """Seconds as text: `46 s`, `6 min 4 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def count_aloud(rows: Iterable[Item], name: str) -> Iterator[Item]:
    """Passes the rows on; prints every 20 seconds how many there have been."""
    printed = time.time()
    for number, row in enumerate(rows, start=1):
        if time.time() - printed > 20:
            printed = time.time()
            say(f"{name}: {number:,} rows so far")
        yield row


class ProgressBar:
    """A progress bar for `total` steps, `done` of them before, with a few numbers beside it.

    If the output is not a terminal, it prints a line every 20 seconds instead.
    """

    def __init__(self, total: int, done: int = 0):
        self.total, self.before, self.done = total, done, done
        self.started = self.printed = time.time()
        self.counted_from, self.said_time = (self.started, done), False
        layout = INDENT + "{bar:24} {percentage:3.0f} %  {elapsed}, {remaining} left  {desc}"
        is_terminal = sys.stdout.isatty()
        self.bar = tqdm(total=total, initial=done, bar_format=layout, file=sys.stdout, disable=not is_terminal)

    def update(self, steps: int = 1, **numbers: float) -> None:
        """Advances by `steps`, and shows `numbers` by name. Without a bar, says early how long the rest takes."""
        self.done += steps
        self.say_time_left()
        text = "  ".join(f"{name} {number:.3g}" for name, number in numbers.items())
        if not self.bar.disable:
            self.bar.set_description_str(printable(text), refresh=False)
            self.bar.update(steps)
        elif time.time() - self.printed > 20:
            self.printed, spent = time.time(), time.time() - self.started
            left = spent / (self.done - self.before) * (self.total - self.done)
            say(f"{100 * self.done / self.total:3.0f} %  {_clock(spent)}, {_clock(left)} left  {text}")

    def say_time_left(self) -> None:
        """Says it once, in words, after the first steps that take EARLY together; a short run says nothing.

        The first step is left out if there are others, because libraries compile kernels in it.
        """
        now, begun, before = time.time(), *self.counted_from
        if self.bar.disable and not self.said_time and now - self.started > EARLY and self.done < self.total:
            self.said_time = True
            left = (now - begun) / (self.done - before) * (self.total - self.done)
            say(f"about {duration(left)} left, after {duration(now - self.started)}")
        if before == self.before:
            self.counted_from = now, self.done

    def write(self, *lines: str) -> None:
        """Prints lines above the bar, as `print_lines` does."""
        tqdm.write("\n".join(map(printable, lines)), file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Leaves the bar on the screen."""
        self.bar.close()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
