"""The arguments that TRL's trainers get from the options."""

import warnings

import pytest
from trl import RewardConfig, SFTConfig

from rlhf import InputError
from stages.common.options import TrainingOptions
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
    [({"no_such": 1}, "refuses these options"), ({"push_to_hub": True}, "outside the run's folder")],
)
def test_arguments_that_trl_lacks_or_that_lead_elsewhere_are_refused(trainer, message, tmp_path):
    with pytest.raises(InputError, match=message):
        trainer_arguments(SFTConfig, TrainingOptions(trainer=trainer), tmp_path)
