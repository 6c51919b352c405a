"""What the stages of a recipe want of one another: what runs before PPO, and what is wanted and made by nobody.

It is known before the first of them works for minutes. `named` is, for each stage, what recipe and command line say.
"""

from typing import Any

from rlhf.config import PPOConfig
from rlhf.errors import InputError

STAMPED = ("data", "pretrain", "sft", "comparisons", "reward", "ppo")


def before_ppo(options: dict[str, Any]) -> str:
    """The stage whose result PPO waits for: where its reward is named there is none to be made."""
    return "sft" if _given(options, "reward_function") or _given(options, "reward_model") else "reward"


def check_sources(named: dict[str, dict[str, Any]], goals: list[str]) -> None:
    """Raises InputError for what a stage that make was asked for, or one before it, wants and nobody makes."""
    last = max((STAMPED.index(goal) for goal in goals if goal in STAMPED), default=-1)
    needed = set(STAMPED if "evaluate" in goals else STAMPED[: last + 1])
    if "ppo" in needed and before_ppo(named["ppo"]) == "sft":
        needed -= {"comparisons", "reward"}

    def wants(stage: str, what: str, how: str, kinds: tuple[str, ...], instead: str = "") -> None:
        own = any(_given(named[stage], key) for key in (*kinds, instead))
        made = any(_given(named["data"], kind) for kind in kinds)
        of_world = _given(named["data"], "world") and kinds != ("comparisons",)
        if stage in needed and not (own or made or of_world):
            raise InputError(f"{stage}: {what}: name files of {kinds[0]} under data{how}")

    wants("pretrain", "nothing to learn from", ", or a model under pretrain", ("text",), "model")
    wants("sft", "nothing to learn from", "", ("demonstrations",))
    wants(
        "comparisons",
        "nobody says what is better",
        ", or a labeller under comparisons. PPO wants neither with a reward_function or a reward_model",
        ("comparisons",),
        "labeller",
    )
    wants("ppo", "nothing to answer", "", ("prompts", "demonstrations", "comparisons"))
    if float(coefficient := named["ppo"].get("ptx_coef", PPOConfig.ptx_coef)):
        what = f"ptx_coef is {coefficient}, and there is no pretraining text to mix in"
        wants("ppo", what, ", or set ptx_coef: 0", ("text",))


def _given(options: dict[str, Any], key: str) -> bool:
    return str(options.get(key) or "none").lower() not in ("none", "null", "false", "[]")
