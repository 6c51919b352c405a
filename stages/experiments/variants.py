"""Variants of a finished run: stages with other options, several at once, each in a folder of its own.

A variant is made as `make STAGE RUN=<its folder> BASE=<the finished run> ARGS=<its options>` would make it. So it is
not made again if it is up to date, and resumes if it was interrupted. Experiments share variants.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from rlhf import InputError
from stages.common.console import duration, print_lines, say
from stages.common.processes import cores
from stages.common.request import NAMES
from stages.common.run import BASE, RECORD, Run, record_of

LOG = "output.txt"  # in the folder of a variant: what its stage printed
LONGEST_NAME = 150  # characters; longer names end in a hash
SEEDS = (0, 1, 2)
# PPO of an experiment: shorter than that of the recipe tiny, and evaluated on held-out prompts every eight steps
SHORT = {"total_episodes": 4096, "eval_steps": 8, "show_samples": 0, "save_minutes": "none"}


@dataclass(frozen=True)
class Variant:
    """A stage with other options than the finished run has, or than its `parent` has."""

    stage: str
    options: tuple[tuple[str, Any], ...] = ()
    parent: "Variant | None" = None
    module: str = ""  # of stages/, which runs in place of the stage's own

    @property
    def name(self) -> str:
        """The name of its folder: stage and options, after those of its parent."""
        words = [self.module.rpartition(".")[2] or self.stage]
        words += [
            f"{option}-{value}" for option, value in self.options if option not in SHORT or value != SHORT[option]
        ]
        own = re.sub(r"[^\w.-]+", "-", "-".join(words).replace(BASE, ""))
        name = f"{self.parent.name}--{own}" if self.parent else own
        return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{sha256(name.encode()).hexdigest()[:8]}"

    @property
    def place(self) -> str:
        """The folder of its result in that of its run: its stage, or one of several tasks."""
        return f"{self.stage}/{dict(self.options)['task']}" if self.stage == "task" else self.stage

    @property
    def arguments(self) -> str:
        """Its options as make's ARGS; a list becomes several words."""
        words: list[str] = []
        for option, value in self.options:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{option}", *map(str, values)]
        return shlex.join(words)


def variant(stage: str, parent: Variant | None = None, module: str = "", **options: Any) -> Variant:
    """A variant with these options."""
    return Variant(stage, tuple(options.items()), parent, module)


def ppo(parent: Variant | None = None, module: str = "", **options: Any) -> Variant:
    """A variant of PPO with these options, as short as experiments have it."""
    return variant("ppo", parent, module, **{**SHORT, **options})


@dataclass
class Runs:
    """The variants of a finished run."""

    base: Path  # the finished run
    made: dict[str, Future] = field(default_factory=dict)
    used: list[Variant] = field(default_factory=list)  # that an experiment needs

    @property
    def root(self) -> Path:
        """The folder of all experiments on the run."""
        return self.base / "experiments"

    def folder(self, variant: Variant | None) -> Path:
        """The folder of a variant, which is a run; of None, the finished run itself."""
        return self.base if variant is None else self.root / "variants" / variant.name

    def result(self, variant: Variant) -> Path:
        """The result of a variant's stage: that of its parent's run if make found that the variant is the same."""
        return Run(self.folder(variant)).find(variant.place)

    def make(self, variants: Sequence[Variant]) -> None:
        """Makes the variants and their parents, as many at once as there are cores; prints each that is finished.

        Raises InputError with the last lines of the output if one fails.
        """
        wanted = dict.fromkeys(v for chosen in variants for v in lineage(chosen))
        ordered = sorted(wanted, key=lambda v: len(lineage(v)))  # a variant that waits for its parent holds a worker
        self.used += ordered
        started, workers = time.time(), workers_of(len(ordered))
        print_lines(f"{len(ordered)} runs of stages, {workers} at once, in {self.root / 'variants'}")
        with ThreadPoolExecutor(workers) as pool:
            futures: dict[Variant, Future] = {}
            for v in (v for v in ordered if v.name not in self.made):
                # entered before the next is submitted, which may start at once and look for its parent
                self.made[v.name] = futures[v] = pool.submit(self._make, v)
            try:
                for number, (v, future) in enumerate(futures.items(), start=1):
                    taken = future.result()
                    left = (time.time() - started) / number * (len(futures) - number)
                    say(f"{number} of {len(futures)}  {v.name}  {duration(taken)}, about {duration(left)} left")
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def cpu_seconds(self) -> float:
        """The CPU time of the stages of all variants that were needed, also of those that were made before."""
        records = (record_of(self.result(v)) for v in dict.fromkeys(self.used))
        return float(sum(record.get("cpu_seconds", 0.0) for record in records))

    def _make(self, variant: Variant) -> float:
        """Makes one variant after its parent; returns the seconds that its stage took."""
        if variant.parent:
            self.made[variant.parent.name].result()
        folder = self.folder(variant)
        folder.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if name not in (*NAMES, "NAME")}
        variables = {"RUN": str(folder), "BASE": str(self.folder(variant.parent)), "ARGS": variant.arguments}
        threads = {} if workers_of(2) == 1 else {"OMP_NUM_THREADS": "1"}
        started = time.time()
        command = [sys.executable, "-m", "stages.experiments.make_variant", variant.stage, variant.module]
        with open(folder / LOG, "w", encoding="utf-8") as output:
            done = subprocess.run(
                command,
                env={**inherited, **variables, **threads},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if done.returncode or not (self.result(variant) / RECORD).is_file():
            lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").rstrip().split("\n")[-6:]
            raise InputError("\n".join([f"{variant.name} failed; the end of {folder / LOG}:", *lines]))
        return time.time() - started


def lineage(variant: Variant) -> list[Variant]:
    """The variant after all its ancestors, oldest first."""
    return [*(lineage(variant.parent) if variant.parent else []), variant]


def workers_of(count: int) -> int:
    """How many of `count` variants run at once: one per core, each with one thread; on a GPU one."""
    import torch

    return 1 if torch.cuda.is_available() else max(1, min(count, cores()))
