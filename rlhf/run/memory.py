"""The memory that a run needs, and the micro-batch that fits. All sizes are in bytes, of one process."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from accelerate.utils import find_executable_batch_size
from torch import nn
from transformers import PreTrainedModel

from rlhf.classifiers import Scorer
from rlhf.engine import decoding_memory, gathered, pass_memory, process_count, unwrap, weight_memory

if TYPE_CHECKING:
    from rlhf.trainer import PPOTrainer

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

Result = TypeVar("Result")
SAMPLE = 1000  # rows whose lengths stand for those of all
SPARE = 0.9  # share of the free memory that micro_batch_size auto uses: the formula is right to 20 %


@dataclass
class Needs:
    """What a stage needs. Sampling and training do not need their memory at the same time."""

    parameters: int  # of all models
    weights: float
    gradients: float = 0.0
    moments: float = 0.0  # of AdamW
    rows: int = 0  # of a micro-batch
    activations: Callable[[int], float] = lambda rows: 0.0  # of a micro-batch of so many rows
    sampling: Callable[[int], float] = lambda rows: 0.0  # everything that sampling needs but the weights
    cache: float = 0.0  # of keys and values, a part of it
    libraries: float = 0.0

    def total(self, rows: int | None = None) -> float:
        """The peak with `rows` in a micro-batch, by default with those of the options."""
        rows = self.rows if rows is None else rows
        return (
            self.libraries + self.weights + self.moments
            + max(self.gradients + self.activations(rows), self.sampling(rows))
        )  # fmt: skip

    def largest(self, room: float) -> int:
        """The most rows of a micro-batch that need no more than `room` in all; 0 if one is too much."""
        fits, too_many = 0, self.rows + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            fits, too_many = (middle, too_many) if self.total(middle) <= room else (fits, middle)
        return fits


def ppo_needs(trainer: "PPOTrainer", frozen: Sequence[nn.Module] = ()) -> Needs:
    """What a PPO run needs if its responses have the greatest length. `frozen` are reward models."""
    config, trained, frozen = trainer.config, trainer.trained_models(), [trainer.reference, *frozen]
    policy = cast(PreTrainedModel, unwrap(trainer.policy))
    value_model = None if trainer.value_model is None else unwrap(trainer.value_model)
    prompts, text = some_lengths(trainer.prompts), some_lengths(trainer.text if config.ptx_coef else [])
    prompt, document = sum(prompts) / len(prompts), sum(text) / max(1, len(text))
    response, repeats = config.response_length, config.num_generations
    minibatch = -(-config.batch_size // config.num_mini_batches // process_count())
    documents = -(-config.ptx_batch_size // process_count()) if document else 0
    passes = pass_memory(policy)
    values = pass_memory(value_model.model, head=False) if isinstance(value_model, Scorer) else None
    value_gradients = weight_memory([value_model], trained=True) if values and value_model is not None else 0.0

    def activations(rows: int) -> float:
        pieces = -(-minibatch // rows)
        lengths, shared = [prompt + response] * rows, prompt * max(0.0, rows - rows / repeats)
        texts = [document] * -(-documents // pieces)
        of_policy = passes.peak([*lengths, *texts], rows * response + sum(texts), shared)
        if values is None:
            return of_policy
        # in the first micro-batch of an update, the value model has no gradients yet
        return max(of_policy - value_gradients * (pieces == 1), values.peak(lengths, 0, shared))

    cache, rest = decoding_memory(policy, config.batch_size / process_count(), max(prompts), response)
    gradients = weight_memory(trained, trained=True)
    return Needs(
        parameters=parameter_count([*trained, *frozen]),
        weights=weight_memory([*trained, *frozen]) + weight_memory([policy]) * (config.ema_decay is not None),
        gradients=gradients * (2 if process_count() > 1 else 1),  # DistributedDataParallel exchanges copies
        moments=2 * gradients,
        rows=minibatch if not isinstance(config.micro_batch_size, int) else min(config.micro_batch_size, minibatch),
        activations=activations,
        sampling=lambda rows: cache + rest,
        cache=cache,
    )


def parameter_count(models: Sequence[nn.Module]) -> int:
    """The parameters of some models, those of a shared trunk once."""
    return sum({p.data_ptr(): p.numel() for model in models for p in model.parameters()}.values())


def some_lengths(rows: Sequence[list[int]]) -> list[int]:
    """The tokens of rows at equal distances, of SAMPLE to twice as many if there are so many."""
    return [len(rows[i]) for i in range(0, len(rows), max(1, len(rows) // SAMPLE))]


# --- what there is ----------------------------------------------------------------------------------------------------


def resident_memory() -> float:
    """The memory of this process, 0 where the system does not tell."""
    return _kilobytes("/proc/self/status", "VmRSS")


def free_memory(device: torch.device) -> float:
    """What this process can still take: of the GPU, or of the machine within the limits of the process.

    Infinite where the system does not tell.
    """
    if device.type != "cpu":
        unused, _ = torch.cuda.mem_get_info(device)
        return float(unused + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    free = _kilobytes("/proc/meminfo", "MemAvailable") or float("inf")
    with suppress(OSError, ValueError):  # the limit of a container
        group = Path("/sys/fs/cgroup")
        largest = int((group / "memory.max").read_text())  # "max" without one
        cached = int(_value(group / "memory.stat", r"^inactive_file (\d+)$"))  # which the kernel gives back
        free = min(free, float(largest - int((group / "memory.current").read_text()) + cached))
    if resource is not None and (space := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        free = min(free, float(space) - _kilobytes("/proc/self/status", "VmSize"))
    return max(0.0, free)


def _kilobytes(file: str, name: str) -> float:
    return 1024.0 * _value(Path(file), rf"^{name}:\s+(\d+) kB")


def _value(file: Path, pattern: str) -> float:
    """The number that the pattern finds in a file; 0 without one."""
    with suppress(OSError):
        if found := re.search(pattern, file.read_text(), re.MULTILINE):
            return float(found[1])
    return 0.0


# --- micro_batch_size: auto -------------------------------------------------------------------------------------------


class MicroBatch:
    """The rows of a micro-batch: as set, or with "auto" as many as fit. None: the whole minibatch."""

    def __init__(self, trainer: "PPOTrainer"):
        self.trainer, config, accelerator = trainer, trainer.config, trainer.accelerator
        self.retries = config.micro_batch_size == "auto" and process_count() == 1
        if config.micro_batch_size != "auto":
            self.rows: int | None = config.micro_batch_size
            return
        self.rows = config.batch_size // config.num_mini_batches
        on_cpu = accelerator.device.type == "cpu"
        if on_cpu or process_count() > 1:
            # a CPU without memory ends the process; and of several processes, one alone can't try again
            with accelerator.autocast():
                needed = ppo_needs(trainer)
            room = min(gathered([free_memory(accelerator.device)])) / (process_count() if on_cpu else 1)
            self.rows = max(1, needed.largest(needed.weights + needed.libraries + SPARE * room))

    def run(self, work: Callable[[int], Result], rows: int) -> Result:
        """What `work` returns for the number of micro-batches in a minibatch of `rows`.

        With "auto", `work` runs again with more if memory is exhausted, and their size stays for the following calls.
        """
        start = min(self.rows or rows, rows)
        if not self.retries:
            return work(-(-rows // start))

        @find_executable_batch_size(starting_batch_size=start)
        def attempt(batch_size: int) -> Result:
            if batch_size < start:
                self.rows = batch_size
                self.trainer.optimizer.zero_grad(set_to_none=True)
            return work(-(-rows // batch_size))

        return attempt()
