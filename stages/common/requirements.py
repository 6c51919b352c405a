"""The inputs that a recipe must name, checked before the first stage runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf import InputError
from stages.common.options import CHAIN, PEOPLE
from stages.common.people import read_people
from stages.common.run import BASE, Run


def stages_before_ppo(ppo: Any) -> tuple[str, ...]:
    """The stages that PPO needs: without comparisons and reward if reward functions alone or a reward model are set."""
    custom_reward = ppo.reward_model or not ppo.uses_reward_model
    return CHAIN[: CHAIN.index("comparisons" if custom_reward else "ppo")]


def only_benchmarks(evaluate: Any, run: Run) -> bool:
    """Whether evaluate has benchmarks and a reward model to measure, and no model that could answer prompts."""
    answering = [name for name in evaluate.models if name not in CHAIN or run.find(name).is_dir()]
    return (
        bool(evaluate.benchmarks)
        and not (answering or evaluate.shots)
        and bool(evaluate.reward_model or run.find("reward").is_dir())
    )


def check_sources(stages: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raises InputError if one of the stages needs rows or a labeller that the recipe does not name."""
    data = options["data"]
    prompts = data.prompts or data.demonstrations or data.comparisons
    if prompts and data.validation_rows and not data.test_share:
        raise InputError("data: validation_rows holds out at most the share test_share, which is 0: set test_share too")

    def require(stage: str, problem: str, kinds: tuple[str, ...], remedy: str, alternative: Any = None) -> None:
        in_stage = any(getattr(options[stage], kind, None) for kind in kinds)
        in_data = any(getattr(data, kind) for kind in kinds)
        in_world = data.world and kinds != ("comparisons",)
        if stage in stages and not (alternative or in_stage or in_data or in_world):
            raise InputError(f"{stage}: {problem}: name files of {kinds[0]} under data{remedy}")

    pretrain, ppo = options["pretrain"], options["ppo"]
    require("pretrain", "no text to train on", ("text",), ", or a model under pretrain", pretrain.model)
    require("sft", "no demonstrations to train on", ("demonstrations",), "")
    require(
        "comparisons",
        "no rankings and no labeller",
        ("comparisons",),
        ", or a labeller under comparisons. PPO needs neither with a reward_function or a reward_model",
        options["comparisons"].labeller,
    )
    require("ppo", "no prompts", ("prompts", "demonstrations", "comparisons"), "")
    if ppo.ptx_coef:
        problem = f"ptx_coef is {ppo.ptx_coef:g}, and there is no pretraining text"
        require("ppo", problem, ("text",), ", or set ptx_coef: 0")
    if "ppo" in stages and ppo.eval_steps and not (ppo.eval_prompts or data.validation_rows):
        raise InputError("ppo: eval_steps needs held-out prompts: set validation_rows under data, or eval_prompts")


def check_run(run: Run, stages: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raises InputError if one of the stages, which will all run, lacks rankings by people or a model of the base."""
    for stage in stages:
        model = getattr(options[stage], "model", None) or ""
        if model.startswith(BASE) and not (path := run.path(model)).is_dir():
            raise InputError(f"{stage}: no model at {path}: run `make ppo RUN={path.parent}` first")
    if "comparisons" in stages and options["comparisons"].labeller == PEOPLE:
        read_people(options["comparisons"], run.path)
