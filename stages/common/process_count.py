"""In how many processes make starts a stage, unless PROCESSES says it.

    On a CPU, as many as there are cores, if the model has at most SMALL parameters and the memory suffices; else one.

A small model keeps one core busy and little more, so processes that share the batch beside each other are faster than
threads that share a matrix product. OMP_NUM_THREADS limits the cores that are counted.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf.config import PPOConfig
from stages.common.options import PretrainOptions
from stages.common.parsing import parse_given
from stages.common.processes import cores
from stages.common.request import Request
from stages.common.run import INPUT

SMALL = 30e6  # parameters
MEMORY = 1.5e9  # bytes of a process with a model of SMALL parameters
SINGLE = ("data", "samples")  # stages that compute little
GPUS = ("/dev/nvidia0", "/dev/kfd", "/dev/accel", "/dev/dri/renderD128")  # files of a machine with an accelerator


def process_count(request: Request, stage: str) -> int | None:
    """The number of processes of a stage; None if the file of Accelerate's configuration says it."""
    if stage in SINGLE:
        return 1
    if request.processes or request.accelerate:
        return request.processes
    if any(Path(path).exists() for path in GPUS):
        return 1
    options = parse_given(stage, request.argv(stage)).options
    parameters = _parameters(request, stage, options)
    if parameters is None or parameters > SMALL:
        return 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    most = min(cores(), int(threads) if threads.isdigit() else cores(), int(_free_memory() // MEMORY))
    if isinstance(options, PPOConfig):
        most = min(most, options.batch_size // options.num_mini_batches)
    return max(1, most)


def _parameters(request: Request, stage: str, options: Any) -> float | None:
    """The size of the stage's model; None if it is not known, or if nothing is computed."""
    if isinstance(options, PretrainOptions):
        return None if options.model else 12 * options.layers * options.width**2 + options.vocab_size * options.width
    source = getattr(options, "model", None) or f"{INPUT}{'pretrain' if stage == 'sft' else 'sft'}"
    weights = list(request.run.path(source).glob("*.safetensors"))
    return sum(path.stat().st_size for path in weights) / 4 if weights else None


def _free_memory() -> float:
    """The bytes of memory that are available; infinite if the system does not tell."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().split("\n")
        return 1024 * float(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    return float("inf")
