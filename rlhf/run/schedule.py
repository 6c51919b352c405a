"""transformers' schedules of the learning rate, by name."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import SchedulerType, get_scheduler

from rlhf import InputError, first_line
from rlhf.option import did_you_mean, shown

SCHEDULES = tuple(member.value for member in SchedulerType)


def new_schedule(
    name: str, optimizer: Optimizer, warmup_steps: int, steps: int, arguments: dict[str, Any] | None = None
) -> LambdaLR:
    """The schedule of an optimizer's learning rates over `steps` optimizer steps.

    `arguments` are those of the schedule itself, such as num_cycles. Raises InputError for a name that transformers
    lacks, for arguments that it refuses, and for a schedule that follows a metric of an evaluation, which no stage
    computes during training.
    """
    if name not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise InputError(
            f"lr_scheduler_type is {shown(name)}; it must be one of {known}{did_you_mean(name, SCHEDULES)}"
        )
    try:
        schedule = get_scheduler(name, optimizer, warmup_steps, steps, arguments)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"lr_scheduler_type {name} can't be used: {first_line(error)}") from error
    if not isinstance(schedule, LambdaLR):
        raise InputError(
            f"lr_scheduler_type {name} follows a metric of an evaluation during training, and there is none"
        )
    return schedule
