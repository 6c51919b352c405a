"""What scores completions: Python functions, and sequence classifiers of a folder or the hub."""

from collections.abc import Sequence

from accelerate import Accelerator

from rlhf.rows import Row
from rlhf.scoring import RewardFunction, RewardModel
from stages.common.parsing import is_function, load_function, split_label
from stages.common.stage import Stage


def load_reward(name: str, stage: Stage, rows: Sequence[Row], accelerator: Accelerator | None = None) -> RewardFunction:
    """The function "module:function", or the classifier "folder" or "folder#label", whose folder becomes an input.

    Raises InputError if neither can be loaded, or if the classifier's chat template refuses a prompt of `rows`.
    """
    if is_function(name):
        return load_function(name)
    source, label = split_label(name)
    model = RewardModel(stage.model(source, "reward"), label, accelerator)
    model.check(rows)
    return model
