"""The programs of the pipeline by name: stages, which make a result, and tools, which use finished results."""

from stages.common.answer_options import ChatOptions, EvaluateOptions, RankOptions, ReportOptions, SamplesOptions
from stages.common.options import (
    ComparisonsOptions,
    DataOptions,
    PPOOptions,
    PretrainOptions,
    RewardOptions,
    SFTOptions,
    StageOptions,
)
from stages.common.task_options import TaskOptions

OPTIONS: dict[str, type[StageOptions]] = {
    "data": DataOptions,
    "pretrain": PretrainOptions,
    "sft": SFTOptions,
    "comparisons": ComparisonsOptions,
    "reward": RewardOptions,
    "ppo": PPOOptions,
    "task": TaskOptions,
    "samples": SamplesOptions,
    "evaluate": EvaluateOptions,
    "rank": RankOptions,
    "chat": ChatOptions,
    "report": ReportOptions,
}
TOOLS = ("rank", "chat", "report")
STAGES = tuple(name for name in OPTIONS if name not in TOOLS)


def place_of(stage: str, options: StageOptions) -> str:
    """The folder of a stage's result in that of the run: its name; for `task` one for each task."""
    return f"{stage}/{options.name}" if isinstance(options, TaskOptions) else stage
