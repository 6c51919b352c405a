"""The options of a stage that can train LoRA adapters instead of all weights. Names and meanings are those of PEFT."""

from dataclasses import dataclass

from rlhf.option import option


@dataclass
class LoraOptions:
    """The adapters of SFT, the reward model and PPO."""

    lora_r: int | None = option(
        None, "rank of LoRA adapters; none trains all weights (arXiv 2106.09685)", at_least=1, at_most=10**5
    )
    lora_alpha: float | None = option(
        None, "the adapter's output is scaled by lora_alpha / lora_r; none: twice lora_r", above=0
    )
    lora_dropout: float = option(
        0.0,
        "dropout of the adapter's input; only 0, so that two passes over the same tokens agree",
        at_least=0,
        at_most=0,
    )
    lora_target_modules: list[str] = option(
        ["all-linear"], "names of the layers that get adapters; all-linear: all but the output layer"
    )
    merge: bool = option(False, "save the adapter merged into its trunk, as an ordinary model")
