"""Output of the stages: lines with a label, durations, progress bars."""

import sys
import time

from tqdm import tqdm

INDENT = " " * 13


def say(text: str, label: str = "") -> None:
    """Prints a line, with the label in the first column."""
    print(f"{label:<13}{text}".rstrip(), flush=True)


def duration(seconds: float) -> str:
    """Seconds as text: `46 s`, `6 min 4 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class ProgressBar:
    """A progress bar for `total` steps, `done` of them before, with a few numbers beside it.

    If the output is not a terminal, it prints a line every 20 seconds instead.
    """

    def __init__(self, total: int, done: int = 0):
        self.total, self.before, self.done = total, done, done
        self.started = self.printed = time.time()
        layout = INDENT + "{bar:24} {percentage:3.0f} %  {elapsed}, {remaining} left  {desc}"
        is_terminal = sys.stdout.isatty()
        self.bar = tqdm(total=total, initial=done, bar_format=layout, file=sys.stdout, disable=not is_terminal)

    def update(self, steps: int = 1, **numbers: float) -> None:
        """Advances by `steps`, and shows `numbers` by name."""
        self.done += steps
        text = "  ".join(f"{name} {number:.3g}" for name, number in numbers.items())
        if not self.bar.disable:
            self.bar.set_description_str(text, refresh=False)
            self.bar.update(steps)
        elif time.time() - self.printed > 20:
            self.printed, spent = time.time(), time.time() - self.started
            left = spent / (self.done - self.before) * (self.total - self.done)
            print(
                f"{INDENT}{100 * self.done / self.total:3.0f} %  {_clock(spent)}, {_clock(left)} left  {text}",
                flush=True,
            )

    def write(self, line: str) -> None:
        """Prints a line above the bar."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Leaves the bar on the screen."""
        self.bar.close()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
