"""One progress bar a stage, with a time that holds; where output goes to a file, a line now and then instead."""

import sys
import time
from collections import deque

from tqdm import tqdm
from transformers import TrainerCallback

INDENT = " " * 13


class ProgressBar:
    """Counts steps up to `total`, of which some may have been `done` before, and shows a few numbers beside them."""

    def __init__(self, total: int, done: int = 0):
        self.total, self.before, self.done = total, done, done
        self.started = self.spoke = time.time()
        layout = INDENT + "{bar:24} {percentage:3.0f} %  {elapsed}, {remaining} left  {desc}"
        shown = sys.stdout.isatty()
        self.bar = tqdm(total=total, initial=done, bar_format=layout, file=sys.stdout, disable=not shown)

    def update(self, steps: int = 1, **numbers: float) -> None:
        """Goes forward."""
        self.done += steps
        text = "  ".join(f"{name} {number:.3g}" for name, number in numbers.items())
        if not self.bar.disable:
            self.bar.set_description_str(text, refresh=False)
            self.bar.update(steps)
        elif time.time() - self.spoke > 20:
            self.spoke, spent = time.time(), time.time() - self.started
            left = spent / (self.done - self.before) * (self.total - self.done)
            shown = f"{_clock(spent)}, {_clock(left)} left"
            print(f"{INDENT}{100 * self.done / self.total:3.0f} %  {shown}  {text}", flush=True)

    def write(self, line: str) -> None:
        """A line above the bar."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self.bar.close()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


class TrainerProgress(TrainerCallback):
    """The bar for a transformers Trainer, with the means of the last 20 steps."""

    def __init__(self):
        self.last: dict[str, deque[float]] = {name: deque(maxlen=20) for name in ("loss", "accuracy")}

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = ProgressBar(state.max_steps, done=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name, numbers in self.last.items():
            if name in (logs or {}):
                numbers.append(float(logs[name]))

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(**{name: sum(numbers) / len(numbers) for name, numbers in self.last.items() if numbers})

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
