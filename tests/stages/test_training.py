"""The arguments that TRL's trainers get from the options."""

import warnings

import pytest
from trl import RewardConfig, SFTConfig

from rlhf import InputError
from stages.common.options import PPOOptions, TrainingOptions
from stages.common.parsing import check_values
from stages.common.training import trainer_arguments


@pytest.mark.parametrize("config_class", [SFTConfig, RewardConfig])
def test_activation_checkpointing_is_off_unless_the_user_turns_it_on_by_either_name(config_class, tmp_path):
    for trainer, expected in (
        (None, False),
        ({"max_grad_norm": 2.0}, False),
        ({"gradient_checkpointing": True}, True),
        ({"activation_checkpointing": True}, True),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error" if trainer is None else "ignore")
            arguments = trainer_arguments(config_class, TrainingOptions(trainer=trainer), tmp_path)
        assert arguments.gradient_checkpointing is expected


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"optm": "sgd"}, 'TRL has no argument .optm., did you mean "optim"'),
        ({"optim": "adamw_tuch"}, 'did you mean "adamw_torch"'),
        ({"push_to_hub": True}, "outside the run's folder"),
        ({"learning_rate": 1.0}, "set by the option learning_rate"),
        ({"num_train_epochs": 1}, "set by the option epochs"),
        ({"max_steps": 1}, "set by the option max_steps"),
        ({"logging_steps": 0}, "can't be set"),
        ({"fsdp": "full_shard"}, "fsdp can't be set: Accelerate's configuration decides it"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0; it must be from 1 to"),
        ({"gradient_accumulation_steps": "4"}, "gradient_accumulation_steps is '4'; it must be a whole number"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers is -1; it must be from 0 to"),
        ({"max_grad_norm": None}, "max_grad_norm is None; it must be a number, at least 0"),
        ({"eval_strategy": "stps"}, 'one of no, steps, epoch, did you mean "steps"'),
        ({"lr_scheduler_kwargs": {"num_cycle": 2}}, "lr_scheduler_type cosine can't be used: .*num_cycle"),
        ({"lr_scheduler_kwargs": 3}, "lr_scheduler_type cosine can't be used"),
    ],
)
def test_arguments_that_trl_lacks_or_that_mean_nothing_or_that_lead_elsewhere_are_refused(trainer, message):
    with pytest.raises(InputError, match=message):
        check_values(TrainingOptions(trainer=trainer))


@pytest.mark.parametrize(
    "name, message",
    [
        ("cosin", 'did you mean "cosine"'),
        ("reduce_lr_on_plateau", "follows a metric"),
        ("greedy", "follows a metric"),
        ("cosine_with_min_lr", "min_lr"),
        ("warmup_stable_decay", "num_decay_steps"),
    ],
)
def test_a_schedule_that_transformers_lacks_or_that_needs_more_is_refused(name, message):
    for options in (TrainingOptions(lr_scheduler_type=name), PPOOptions(lr_scheduler_type=name)):
        with pytest.raises(InputError, match=f"lr_scheduler_type .*{name}.*{message}"):
            check_values(options)


def test_a_schedule_gets_its_own_arguments_from_the_trainers_arguments():
    for name, arguments in (("cosine_with_min_lr", {"min_lr": 1e-5}), ("warmup_stable_decay", {"num_decay_steps": 5})):
        check_values(TrainingOptions(lr_scheduler_type=name, trainer={"lr_scheduler_kwargs": arguments}))
    for name in ("inverse_sqrt", "polynomial", "cosine_with_restarts", "constant_with_warmup"):
        check_values(PPOOptions(lr_scheduler_type=name))
