"""One side of a comparison, in a process of its own: it loads its models, then makes a step on each request.

The parent sends a line for each step and gets a line of JSON: `cpu` and `wall` seconds, the same for each of the `phases`,
the peak memory so far, the number of optimizer steps, and what the side itself counts.
"""

import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.benchmarks.workloads import Workload


class Worker:
    """The clock of a side, and its connection to the parent."""

    def __init__(self):
        # stdout carries the replies only: what libraries print goes to stderr
        self.replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.cuda = torch.cuda.is_available()
        self.device = "cuda" if self.cuda else "cpu"
        self.updates = 0
        register_optimizer_step_post_hook(self._count)

    def _count(self, *args) -> None:
        self.updates += 1

    def ready(self, **facts: Any) -> None:
        """Reports what must be equal on both sides, and waits for the request of the first step."""
        self._reply({"memory_mb": self._memory(), **facts})
        self._await_request()

    def mark(self, phase: str) -> None:
        """Adds the time since the last mark to this phase."""
        cpu, wall = self._elapsed()
        self.phases[phase] = [a + b for a, b in zip(self.phases.get(phase, (0, 0)), (cpu, wall), strict=True)]

    def end(self, phase: str, **counts: Any) -> None:
        """Ends a step, whose last phase was `phase`, and waits for the request of the next one."""
        self.mark(phase)
        cpu, wall = (sum(part) for part in zip(*self.phases.values(), strict=True))
        step = {
            "cpu": cpu,
            "wall": wall,
            "phases": self.phases,
            "memory_mb": self._memory(),
            "updates": self.updates,
        }
        self._reply({**step, **counts})
        self._await_request()

    def _memory(self) -> float:
        """The peak memory so far, MB."""
        if self.cuda:
            return torch.cuda.max_memory_allocated() / 1e6
        status = Path("/proc/self/status")
        if status.is_file():
            # not ru_maxrss, which starts with the peak of the parent process
            return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024 / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

    def _reply(self, message: dict) -> None:
        print(json.dumps(message), file=self.replies, flush=True)

    def _await_request(self) -> None:
        if not sys.stdin.readline():
            os._exit(0)  # the call comes from inside a trainer's loop, which an exception might not leave
        self.phases, self.updates = {}, 0
        self._elapsed(since_last=False)

    def _elapsed(self, since_last: bool = True) -> tuple[float, float]:
        """CPU seconds of this process and wall seconds since the last call; on a GPU wall time by CUDA events."""
        event = torch.cuda.Event(enable_timing=True) if self.cuda else None
        if event:
            event.record()
            torch.cuda.synchronize()
        now = (time.process_time(), time.perf_counter(), event)
        before, self.last = self.last if since_last else now, now
        wall = before[2].elapsed_time(event) / 1000 if event else now[1] - before[1]
        return now[0] - before[0], wall

    def watch(self, owner: Any, name: str, before: Callable | None = None, after: Callable | None = None) -> None:
        """Wraps owner.name, so that each call first calls `before` with its arguments, then `after` with its result."""
        function = getattr(owner, name)

        @wraps(function)
        def watched(*args, **kwargs):
            if before:
                before(*args, **kwargs)
            result = function(*args, **kwargs)
            if after:
                after(result)
            return result

        setattr(owner, name, watched)


def run(functions: dict[str, Callable]) -> None:
    """Runs the job in the first argument, with the function for its kind of workload."""
    job = json.loads(sys.argv[1])
    workload, side = Workload(**job["workload"]), job["side"]
    functions[workload.kind](Worker(), workload, Path(job["folder"]), side["numerics"], side["values"])
