"""The options of every stage: dataclass fields, set by a recipe and then by the command line (see `parsing`).

They are here and not in the stages so that `make` can read them without loading torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlhf import InputError
from rlhf.config import PPOConfig, option

CHAIN = ("data", "pretrain", "sft", "comparisons", "reward", "ppo")  # each stage before those that read its result
NORMALISED_ON = 4096  # sequences that the reward model's scores are normalised on, at most


@dataclass
class StageOptions:
    """Options of every stage."""

    recipe: str = option("tiny", "a name in stages/recipes, or the path of a YAML file")
    run: str | None = option(None, "folder in which the stages meet; by default runs/<recipe>")
    base: str | None = option(None, "folder of another run: finished stages that this run lacks are read from there")
    output: str | None = option(None, "folder for this stage's result; by default <run>/<stage>")
    seed: int = option(0, "decides every random number of the stage")

    @property
    def run_folder(self) -> Path:
        return Path(self.run or f"runs/{Path(self.recipe).stem}")


@dataclass
class SavingOptions(StageOptions):
    """Options of a stage that saves checkpoints and resumes from them."""

    save_steps: int | None = option(None, "steps between checkpoints; none leaves it to save_minutes")
    save_minutes: float | None = option(
        0.5,
        "minutes between checkpoints, more if saving would take over a twentieth of the time; none leaves it to save_steps",
    )
    save_total_limit: int = option(2, "newest checkpoints to keep; they stay beside the finished model")

    def __post_init__(self) -> None:
        for name in ("save_steps", "save_minutes", "save_total_limit"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} is {value}; it must be above 0")


@dataclass
class TrainingOptions(SavingOptions):
    """Options of pretraining, SFT and the reward model; `trainer` passes any other argument to TRL's trainer."""

    epochs: float = option(1.0, "epochs over the rows")
    batch_size: int = option(16, "rows a step and process; for the reward model, prompts with all their completions")
    learning_rate: float = option(1e-3, "peak learning rate of AdamW")
    lr_scheduler_type: str = option("cosine", "its schedule: cosine, linear, constant, or another of transformers'")
    warmup_steps: int = option(50, "steps over which it rises from 0")
    weight_decay: float = option(0.01, "decoupled weight decay")
    adam_beta2: float = option(0.95, "AdamW's beta 2 (InstructGPT: 0.95); beta 1 is 0.9")
    max_length: int | None = option(
        None, "longest row in tokens, by default the model's context; longer rows are dropped and counted"
    )
    bf16: bool = option(False, "forward passes in bfloat16, weights and optimizer in fp32")
    log_with: str | None = option(None, "also log to tensorboard, wandb, or another tracker that transformers supports")
    trainer: dict | None = option(
        None, "further arguments of TRL's trainer, as JSON: '{\"gradient_accumulation_steps\": 4}'"
    )

    def longest(self, context: int) -> int:
        """The longest row in tokens that is used: max_length, and at most the model's context."""
        return min(self.max_length or context, context)


@dataclass
class DataOptions(StageOptions):
    world: bool = option(False, "make text, demonstrations and prompts of the embedded world")
    world_documents: int = option(50_000, "pretraining documents of the world")
    world_demonstrations: int = option(6_000, "demonstrations of the world")
    world_prompts: int = option(6_000, "prompts of the world")

    folder: str | None = option(None, "folder of the files below; by default the current one")
    text: list[str] = option([], "files or hub data sets of plain text, for pretraining")
    demonstrations: list[str] = option([], "files or hub data sets of prompts with completions, for SFT")
    comparisons: list[str] = option(
        [], "files or hub data sets of ranked or paired completions; by default `make comparisons` samples them"
    )
    prompts: list[str] = option(
        [], "files or hub data sets of prompts, for PPO; by default the prompts of demonstrations and comparisons"
    )
    sample_by: str = option("paragraph", "what one document of a .txt file is: line, paragraph or document")
    limit: int | None = option(None, "rows to use of each file or data set, at most")

    test_share: float = option(
        0.1, "share of the prompts of files that is held out for the test; rows with these prompts are in no training"
    )
    test_rows: int = option(400, "prompts, or texts, held out for the test, at most")


@dataclass
class PretrainOptions(TrainingOptions):
    model: str | None = option(None, "load this model (a folder or a hub id) instead of training one")
    text: str | None = option(None, "JSON Lines file of {text}; by default that of `make data`")
    tokenizer: str | None = option(
        None, "tokenizer of the new model (a folder or a hub id), by default one trained on the text"
    )
    vocab_size: int = option(2048, "tokens of the new tokenizer, at most")
    layers: int = option(3, "transformer blocks of the new model")
    width: int = option(128, "its hidden size")
    heads: int = option(8, "its attention heads")
    context: int = option(128, "its context in tokens; longer documents are cut into pieces")
    initializer_range: float = option(
        0.1, "standard deviation of its initial weights (GPT-2: 0.02, too small for narrow models)"
    )
    packing: bool = option(False, "fill rows with several documents, for many short ones in a long context")


@dataclass
class SFTOptions(TrainingOptions):
    model: str | None = option(None, "model to start from; by default the result of `make pretrain`")
    demonstrations: str | None = option(None, "JSON Lines file of {prompt, completion}; by default that of `make data`")


@dataclass
class ComparisonsOptions(SavingOptions):
    model: str | None = option(None, "model to sample from; by default the result of `make sft`")
    labeller: str | None = option(
        None, "a Python function, module:function, that returns the quality of completions as numbers"
    )
    noise: float = option(
        1.5, "the labeller prefers the better of two with probability sigmoid(difference / noise); 0 for no noise"
    )
    tie_margin: float = option(0.0, "largest difference in perceived quality that is a tie")
    count: int = option(1800, "prompts whose completions are compared for training")
    test_count: int = option(300, "prompts whose completions are compared for the test of the reward model")
    completions: int = option(4, "K: completions sampled for each prompt (InstructGPT: 4 to 9)")
    swapped: int = option(
        1,
        "completions of other prompts added to each ranking, so that the reward model learns to reject off-topic ones",
    )
    temperature: float = option(1.0, "sampling temperature")
    response_length: int = option(64, "tokens after which a completion is truncated")
    batch_size: int = option(256, "completions sampled at a time")


@dataclass
class RewardOptions(TrainingOptions):
    model: str | None = option(None, "model to start from; by default the result of `make sft`")
    comparisons: str | None = option(
        None, "JSON Lines file of rankings or pairs; by default that of `make comparisons`"
    )
    comparisons_test: str | None = option(None, "the same for the test; by default that of `make comparisons`")
    normalise_on: Literal["demonstrations", "comparisons", "nothing"] = option(
        "demonstrations",
        f"scores are shifted to mean 0 over these, {NORMALISED_ON} at most (InstructGPT: demonstrations)",
    )
    unit_deviation: bool = option(True, "scale scores to a standard deviation of 1 over the comparisons")


@dataclass
class PPOOptions(PPOConfig, SavingOptions):
    model: str | None = option(None, "policy to start from, and reference; by default the result of `make sft`")
    reward_model: str | None = option(
        None, "reward model, and start of the value model; by default the result of `make reward`"
    )
    reward_function: str | None = option(
        None,
        "a Python function, module:function, that returns the scores; the value model then starts from the policy, or from a reward_model if one is given",
    )
    prompts: str | None = option(None, "JSON Lines file of {prompt}; by default that of `make data`")
    text: str | None = option(None, "JSON Lines file of {text} for the pretraining mix; by default that of `make data`")
    gold: str | None = option(
        None, "a Python function, module:function, that returns true quality; it is logged, and not trained on"
    )
    show_samples: int = option(10, "steps between completions that are shown; 0 for none")
    log_with: str | None = option(None, "also log to tensorboard, wandb, or another tracker that Accelerate supports")

    def __post_init__(self) -> None:
        PPOConfig.__post_init__(self)
        SavingOptions.__post_init__(self)


@dataclass
class SamplesOptions(StageOptions):
    prompt: list[str] = option([], "prompts to answer")
    prompts: str | None = option(
        None, "JSON Lines file of {prompt} to answer; by default, without --prompt, the held-out ones of `make data`"
    )
    template: str | None = option(
        None, 'text around each --prompt, with {} in its place; "chat" makes it a user\'s message'
    )
    models: list[str] = option(["pretrain", "sft", "ppo"], "models that answer: stages of the run, folders or hub ids")
    count: int = option(6, "prompts to take from a file, of different tasks if it names them")
    temperature: float = option(1.0, "sampling temperature; 0 takes the most likely token each time")
    response_length: int = option(64, "tokens after which a completion is truncated")
    gold: str | None = option(None, "a Python function, module:function, that returns true quality; it is shown")


@dataclass
class EvaluateOptions(StageOptions):
    models: list[str] = option(
        ["pretrain", "sft", "ppo"],
        "models to evaluate: stages of the run, or folders of further policies, which are compared with sft as ppo is",
    )
    count: int = option(400, "held-out prompts, at most")
    temperature: float = option(1.0, "sampling temperature; greedy decoding is evaluated as well")
    response_length: int = option(64, "tokens after which a completion is truncated")
    best_of: int = option(0, "n of best-of-n: the SFT model's completion with the highest score of n; 0 for none")
    gold: str | None = option(None, "a Python function, module:function, that returns true quality")
    perfect: float = option(10.0, "gold of a perfect answer")


OPTIONS: dict[str, type[StageOptions]] = {
    "data": DataOptions,
    "pretrain": PretrainOptions,
    "sft": SFTOptions,
    "comparisons": ComparisonsOptions,
    "reward": RewardOptions,
    "ppo": PPOOptions,
    "samples": SamplesOptions,
    "evaluate": EvaluateOptions,
}
STAGES = tuple(OPTIONS)
