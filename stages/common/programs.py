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

OPTIONS: dict[str, type[StageOptions]] = {
    "data": DataOptions,
    "pretrain": PretrainOptions,
    "sft": SFTOptions,
    "comparisons": ComparisonsOptions,
    "reward": RewardOptions,
    "ppo": PPOOptions,
    "samples": SamplesOptions,
    "evaluate": EvaluateOptions,
    "rank": RankOptions,
    "chat": ChatOptions,
    "report": ReportOptions,
}
TOOLS = ("rank", "chat", "report")
STAGES = tuple(name for name in OPTIONS if name not in TOOLS)
