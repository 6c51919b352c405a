"""Checks of the values that transformers, TRL and Accelerate define, and of what the device supports.

A library is imported only for a value that needs it, because that takes seconds, and make does these checks too.
"""

from enum import Enum
from types import NoneType
from typing import Any, get_args, get_type_hints

from rlhf import InputError
from rlhf.config import PPOConfig, PrecisionOptions
from rlhf.option import Range, did_you_mean, problem_of, shown
from stages.common.options import PPOOptions, RewardOptions, StageOptions, TrainingOptions
from stages.common.task_options import TaskOptions

PLAIN_SCHEDULES = ("linear", "cosine", "constant")  # they exist, and take no arguments
# arguments of transformers' trainers that read or write outside the run's folder
OUTSIDE = {"logging_dir", "push_to_hub", "resume_from_checkpoint"}
# arguments that Accelerate's configuration and the number of processes decide
DISTRIBUTED = {
    "accelerator_config", "average_tokens_across_devices", "ddp_find_unused_parameters", "deepspeed", "fsdp", "fsdp_config",
}  # fmt: skip
# arguments that the stages set from an option of another name
OPTION_OF = {
    "output_dir": "output", "num_train_epochs": "epochs", "per_device_train_batch_size": "batch_size",
    "report_to": "log_with",
}  # fmt: skip
# arguments that checkpoints and the log of a stage depend on
FIXED = {
    "disable_tqdm", "logging_first_step", "logging_nan_inf_filter", "logging_steps", "logging_strategy",
    "save_only_model", "save_strategy", "train_sampling_strategy",
}  # fmt: skip
# TRL does not check these itself
RANGES = {
    "adam_beta1": Range(at_least=0, below=1),
    "adam_epsilon": Range(above=0),
    "center_rewards_coefficient": Range(at_least=0),
    "dataloader_num_workers": Range(at_least=0, at_most=1000),
    "dataloader_prefetch_factor": Range(at_least=1, at_most=10**6),
    "dataset_num_proc": Range(at_least=1, at_most=1000),
    "gradient_accumulation_steps": Range(at_least=1, at_most=10**6),
    "label_smoothing_factor": Range(at_least=0, at_most=1),
    "max_grad_norm": Range(at_least=0),
    "neftune_noise_alpha": Range(at_least=0),
    "router_aux_loss_coef": Range(at_least=0),
    "torch_empty_cache_steps": Range(at_least=1, at_most=10**9),
}


def check_library_values(options: StageOptions) -> None:
    """Raises InputError if the options name a schedule, a tracker or an argument that a library lacks or refuses.

    And for a mixed precision that the device does not support.
    """
    if isinstance(options, PrecisionOptions) and options.mixed_precision == "fp16":
        from rlhf.models import mixed_precision

        mixed_precision(options)
    if tracker := getattr(options, "log_with", None):
        check_tracker(tracker, accelerate=isinstance(options, PPOOptions))
    if isinstance(options, TrainingOptions) and options.trainer:
        check_trainer(options.trainer, options)
    if isinstance(options, TrainingOptions | PPOConfig):
        check_schedule(options)


def check_tracker(name: str, accelerate: bool) -> None:
    """Raises InputError unless Accelerate or, for its trainers, transformers supports the tracker, and it is installed.

    "all" stands for all installed ones.
    """
    if accelerate:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

        library, known = "Accelerate", list(LOGGER_TYPE_TO_CLASS)
        installed = list(map(str, get_available_trackers()))
    else:
        from transformers.integrations import integration_utils

        library, known = "transformers", list(integration_utils.INTEGRATION_TO_CALLBACK)
        installed = integration_utils.get_available_reporting_integrations()
    if name not in (*known, "all"):
        supported = ", ".join(sorted(known))
        raise InputError(
            f"log_with is {shown(name)}; {library} supports {supported} and all{did_you_mean(name, known)}"
        )
    if name == "all" and not installed:
        raise InputError(f"log_with all: no tracker is installed; install one, such as `pip install {known[0]}`")
    if name != "all" and name not in installed:
        raise InputError(f"log_with {name}: it is not installed; `pip install {name}`")


def check_schedule(options: TrainingOptions | PPOConfig) -> None:
    """Raises InputError if the schedule does not exist or can't be used with the learning rate and these arguments."""
    arguments = (getattr(options, "trainer", None) or {}).get("lr_scheduler_kwargs")
    if options.lr_scheduler_type in PLAIN_SCHEDULES and not arguments:
        return
    import torch

    from rlhf.run.schedule import new_schedule

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=options.learning_rate)
    new_schedule(options.lr_scheduler_type, optimizer, 0, 10, arguments)


def check_trainer(further: dict[str, Any], options: TrainingOptions) -> None:
    """Raises InputError for an argument in `trainer` that TRL lacks or refuses, or that a stage sets itself."""
    from transformers import TrainingArguments
    from trl import RewardConfig, SFTConfig

    config_classes: dict[type, type] = {RewardOptions: RewardConfig, TaskOptions: TrainingArguments}
    hints = get_type_hints(config_classes.get(type(options), SFTConfig))
    for name, value in further.items():
        if own := name if hasattr(options, name) else OPTION_OF.get(name):
            raise InputError(f"trainer: {name} is set by the option {own}")
        if name in OUTSIDE:
            raise InputError(f"trainer: {name} would read or write outside the run's folder")
        if name in DISTRIBUTED:
            raise InputError(f"trainer: {name} can't be set: Accelerate's configuration decides it, see docs/scale.md")
        if name in FIXED:
            raise InputError(f"trainer: {name} can't be set: the checkpoints or the log of the stage depend on it")
        if name not in hints:
            raise InputError(f"trainer: TRL has no argument {shown(name)}{did_you_mean(name, hints)}")
        if problem := argument_problem(value, hints[name], RANGES.get(name, Range())):
            raise InputError(f"trainer: {name} is {shown(value)}; {problem}")


def argument_problem(value: Any, hint: Any, limits: Range) -> str:
    """What an argument must be, if its type is a simple one or an Enum that the value is not of; else ""."""
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    enum = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)), None)
    if enum is not None:
        names = [str(member.value) for member in enum]
        allowed = f"one of {', '.join(names)}" if len(names) <= 15 else f"one of the {len(names)} that transformers has"
        return "" if value in names else f"it must be {allowed}{did_you_mean(value, names)}"
    return problem_of(value, hint, limits) if len(kinds) == 1 and kinds[0] in (bool, int, float, str) else ""
