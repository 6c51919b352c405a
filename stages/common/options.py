"""The options of the stages up to PPO, as dataclass fields. A recipe sets them, then the command line (see `parsing`).

They are not in the stages' own modules, so that `make` can read them without importing torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NewType

from rlhf import InputError
from rlhf.adapters.options import LoraOptions
from rlhf.config import LARGEST_SEED, PPOConfig, PrecisionOptions
from rlhf.option import check_options, option

# every stage comes after the stages whose results it reads
CHAIN = ("data", "pretrain", "sft", "comparisons", "reward", "ppo")
# options that name the recipe and folders: they are set on the command line, not in a section of a recipe
PLACES = ("recipe", "run", "base", "results", "run_seed", "output")

# the labeller of a recipe whose comparisons are the rankings that people made with `make rank`
PEOPLE = "people"

# a path, or a mapping as JSON, see data/columns.py
SourceText = NewType("SourceText", str)


@dataclass
class StageOptions:
    """Options that every stage has."""

    recipe: str = option("tiny", "a name in stages/recipes, or the path of a YAML file")
    run: str | None = option(None, "folder of the stages' results; by default runs/<recipe>")
    base: str | None = option(None, "folder of another run; finished stages that this run lacks are read from it")
    results: dict | None = option(
        None, "folders of the results of other stages, as JSON; by default those of the run, then those of its base"
    )
    run_seed: int | None = option(
        None, "seed of all stages, as make's SEED gives it; --seed overrides it", at_least=0, at_most=LARGEST_SEED
    )
    output: str | None = option(None, "folder for this stage's result; by default <run>/<stage>")
    seed: int = option(0, "seed of all random numbers of the stage", at_least=0, at_most=LARGEST_SEED)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def run_folder(self) -> Path:
        """The folder of the stages' results."""
        return Path(self.run or f"runs/{Path(self.recipe).stem}")


@dataclass
class SavingOptions(StageOptions):
    """Options of a stage that saves checkpoints and resumes from them."""

    save_steps: int | None = option(
        None, "steps between checkpoints; none: only save_minutes decides", at_least=1, at_most=10**9
    )
    save_minutes: float | None = option(
        0.5,
        "minutes between checkpoints, more if saving takes over a twentieth of the time; none: only save_steps decides",
        above=0,
    )
    save_total_limit: int = option(
        2, "number of newest checkpoints to keep; the finished result keeps them too", at_least=1, at_most=10**9
    )


@dataclass
class TrainingOptions(SavingOptions, PrecisionOptions):
    """Options of pretraining, SFT and the reward model; `trainer` passes any other argument to TRL's trainer."""

    epochs: float = option(1.0, "epochs over the rows", above=0, at_most=1000)
    max_steps: int | None = option(
        None,
        "maximum number of optimizer steps, at which the schedule of the learning rate ends; none: epochs decide",
        at_least=1,
        at_most=10**9,
    )
    batch_size: int = option(
        16,
        "rows per step and process; for the reward model, prompts with all their completions",
        at_least=1,
        at_most=10**6,
    )
    learning_rate: float = option(1e-3, "peak learning rate of AdamW", at_least=0)
    lr_scheduler_type: str = option(
        "cosine", "schedule of the learning rate: cosine, linear, constant, or any other that transformers has"
    )
    warmup_steps: int = option(
        50, "steps over which the learning rate rises from 0 to its peak", at_least=0, at_most=10**9
    )
    weight_decay: float = option(0.01, "decoupled weight decay", at_least=0)
    adam_beta2: float = option(0.95, "AdamW's beta 2 (InstructGPT: 0.95); beta 1 is 0.9", at_least=0, below=1)
    max_length: int | None = option(
        None,
        "maximum tokens of a row, by default the model's context; longer rows are dropped and counted",
        at_least=2,
        at_most=10**6,
    )
    log_with: str | None = option(None, "also log to tensorboard, wandb, or another tracker that transformers supports")
    trainer: dict | None = option(
        None, "further arguments of TRL's trainer, as JSON: '{\"gradient_accumulation_steps\": 4}'"
    )


@dataclass
class DataOptions(StageOptions):
    world: bool = option(False, "generate text, demonstrations and prompts of the embedded world")
    world_documents: int = option(50_000, "number of pretraining documents of the world", at_least=1, at_most=10**7)
    world_demonstrations: int = option(6_000, "number of demonstrations of the world", at_least=1, at_most=10**7)
    world_prompts: int = option(6_000, "number of prompts of the world", at_least=1, at_most=10**7)
    world_tasks: list[str] = option(
        [], "tasks of the world's rows, such as sum, by default all; prompts of sums then have their answer"
    )

    folder: str | None = option(
        None, "folder of the files that text, demonstrations, comparisons and prompts name; by default the current one"
    )
    text: list[SourceText] = option([], "files or hub data sets of plain text, for pretraining")
    demonstrations: list[SourceText] = option([], "files or hub data sets of prompts with completions, for SFT")
    comparisons: list[SourceText] = option(
        [], "files or hub data sets of ranked or paired completions; by default `make comparisons` samples them"
    )
    prompts: list[SourceText] = option(
        [], "files or hub data sets of prompts, for PPO; by default the prompts of demonstrations and comparisons"
    )
    sample_by: Literal["line", "paragraph", "document"] = option(
        "paragraph", "unit of a .txt file that becomes one document: line, paragraph or document (the whole file)"
    )
    rendered: bool = option(False, "special tokens in the text of the files, such as <s>, are control tokens, not text")
    limit: int | None = option(None, "maximum number of rows of each file or data set", at_least=1, at_most=10**9)

    preview: int = option(1, "rows of each kind to print as text", at_least=0, at_most=1000)

    test_share: float = option(
        0.1,
        "share of the prompts, or texts, of the files that is held out for the test; rows with these prompts are not trained on",
        at_least=0,
        at_most=1,
    )
    test_rows: int = option(
        400, "maximum number of prompts, or texts, held out for the test", at_least=0, at_most=10**7
    )
    validation_rows: int = option(
        0, "maximum number of further prompts held out, to evaluate PPO while it trains", at_least=0, at_most=10**7
    )


@dataclass
class PretrainOptions(TrainingOptions):
    model: str | None = option(None, "load this model (a folder or a hub id) instead of training one")
    text: str | None = option(None, "JSON Lines file of {text}; by default the one from `make data`")
    tokenizer: str | None = option(
        None, "tokenizer of the new model (a folder or a hub id), by default one trained on the text"
    )
    vocab_size: int = option(2048, "maximum vocabulary size of the new tokenizer", at_least=258, at_most=10**6)
    layers: int = option(3, "transformer blocks of the new model", at_least=1, at_most=1000)
    width: int = option(128, "hidden size of the new model", at_least=1, at_most=10**5)
    heads: int = option(8, "attention heads of the new model", at_least=1, at_most=10**5)
    context: int = option(
        128,
        "context length of the new model, in tokens; longer documents are split into pieces",
        at_least=2,
        at_most=10**6,
    )
    initializer_range: float = option(
        0.1,
        "standard deviation of the initial weights (GPT-2: 0.02, too small for narrow models)",
        above=0,
        at_most=100,
    )
    packing: bool = option(False, "fill each row with several documents; useful for short documents in a long context")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise InputError(f"width {self.width} can't be shared by {self.heads} heads: make it a multiple of them")


@dataclass
class SFTOptions(TrainingOptions, LoraOptions):
    model: str | None = option(None, "model to start from; by default the result of `make pretrain`")
    demonstrations: str | None = option(
        None, "JSON Lines file of {prompt, completion}; by default the one from `make data`"
    )
    last_reply_only: bool = option(
        False, "learn only the completion, which in a chat is the last reply, and not the earlier replies"
    )


@dataclass
class ComparisonsOptions(SavingOptions):
    model: str | None = option(None, "model to sample from; by default the result of `make sft`")
    labeller: str | None = option(
        None,
        "a Python function, module:function, or a classifier, that scores completions; people: nothing is sampled, the "
        "rankings of `make rank` are used",
    )
    rankings: list[str] = option([], "of labeller people: files or folders of further rankings, besides <run>/rankings")
    held_out: float = option(
        0.25,
        "of labeller people: share of their prompts that is held out to test the reward model; 0: no test",
        at_least=0,
        below=1,
    )
    old: str | None = option(
        None,
        "of labeller people: JSON Lines file of older comparisons to mix in, such as <base>/comparisons/train.jsonl",
    )
    old_weight: float = option(
        1.0, "number of older comparisons for each ranking to train on, drawn with the seed", above=0, at_most=10**6
    )
    noise: float = option(
        1.5,
        "the labeller prefers the better of two completions with probability sigmoid(difference / noise); 0: no noise",
        at_least=0,
    )
    tie_margin: float = option(0.0, "completions tie if their perceived qualities differ by at most this", at_least=0)
    count: int = option(1800, "number of training prompts whose completions are compared", at_least=1, at_most=10**9)
    test_count: int = option(
        300,
        "number of held-out prompts whose completions are compared, to test the reward model; 0: no test",
        at_least=0,
        at_most=10**9,
    )
    completions: int = option(
        4, "K, the completions sampled for each prompt (InstructGPT: 4 to 9)", at_least=1, at_most=1000
    )
    swapped: int = option(
        1,
        "completions of other prompts added to each ranking, so that the reward model learns to reject off-topic answers",
        at_least=0,
        at_most=1000,
    )
    temperature: float = option(1.0, "sampling temperature", at_least=0.01, at_most=100)
    response_length: int = option(64, "tokens after which a completion is truncated", at_least=1, at_most=10**6)
    batch_size: int = option(256, "completions sampled in one batch", at_least=1, at_most=10**6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labeller != PEOPLE and (self.rankings or self.old):
            raise InputError("rankings and old belong to labeller: people; other comparisons are named under data")
        if self.completions + self.swapped < 2:
            raise InputError("a comparison needs at least two completions: raise completions or swapped")


@dataclass
class RewardOptions(TrainingOptions, LoraOptions):
    model: str | None = option(None, "model to start from; by default the result of `make sft`")
    comparisons: str | None = option(
        None, "JSON Lines file of rankings or pairs; by default the one from `make comparisons`"
    )
    comparisons_test: str | None = option(
        None, "JSON Lines file of held-out rankings or pairs; by default the one from `make comparisons`"
    )
    normalise_on: Literal["demonstrations", "comparisons", "nothing"] = option(
        "demonstrations",
        "rows over which scores are shifted to mean 0, at most 4,096 (InstructGPT: demonstrations)",
    )
    unit_deviation: bool = option(True, "scale scores to a standard deviation of 1 over the comparisons")
    learning_curve: bool = option(
        False, "also train on parts of the comparisons, and tell whether more would help; people's: done if needed"
    )


@dataclass
class PPOOptions(PPOConfig, SavingOptions, LoraOptions):
    model: str | None = option(None, "policy to start from, and reference; by default the result of `make sft`")
    reward_model: str | None = option(
        None,
        "a sequence classifier, from which the value model starts if it can; by default the result of `make reward`",
    )
    reward_label: str | None = option(None, "label of reward_model, by name or index, if it has several")
    reward_function: str | None = option(
        None,
        "a Python function, module:function, or a classifier, that gives the scores instead of a reward model; the value "
        "model then starts from the policy, or from reward_model if that is set",
    )
    reward_functions: list[str] = option(
        [],
        "several such functions or classifiers, folder#label; the score is their weighted sum, plus the reward model's if reward_model_weight is set",
    )
    reward_weights: list[float] = option([], "weights of the reward functions in order; by default 1 each")
    reward_model_weight: float | None = option(
        None, "weight of the reward model's score beside reward functions; none: they take its place", at_least=0
    )
    keep_special_tokens: bool = option(
        False, "reward functions see the special tokens of a response, except its final stop token"
    )
    prompts: str | None = option(None, "JSON Lines file of {prompt}; by default the one from `make data`")
    text: str | None = option(
        None, "JSON Lines file of {text} for the pretraining mix; by default the one from `make data`"
    )
    gold: str | None = option(None, "a Python function, or a classifier, that returns true quality; it is only logged")
    eval_steps: int | None = option(
        None,
        "steps between evaluations on held-out prompts, also before the first step and after the last; none: no evaluation",
        at_least=1,
        at_most=10**9,
    )
    eval_prompts: str | None = option(
        None, "JSON Lines file of {prompt} to evaluate on; by default the validation prompts of `make data`"
    )
    eval_count: int = option(
        200, "maximum number of held-out prompts, and of documents, of an evaluation", at_least=1, at_most=10**6
    )
    keep: Literal["last", "best"] = option(
        "last",
        "last: the final weights are saved; best: those of the evaluation with the highest held-out gold (without gold, the "
        "highest score) among those with a KL of at most keep_max_kl",
    )
    keep_max_kl: float | None = option(
        None, "of keep best: largest KL to the reference, in nats per response; none: any", above=0
    )
    show_samples: int = option(10, "steps between printed sample completions; 0: print none", at_least=0, at_most=10**9)
    log_with: str | None = option(None, "also log to tensorboard, wandb, or another tracker that Accelerate supports")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep == "best" and self.eval_steps is None:
            raise InputError("keep: best compares evaluations: set eval_steps, the steps between them")
        if self.keep_max_kl is not None and self.keep != "best":
            raise InputError("keep_max_kl limits what keep: best may choose: set keep: best too, or remove keep_max_kl")
        if self.reward_label and not self.reward_model:
            raise InputError("reward_label names a label of reward_model: set reward_model too")
        named = self.named_functions
        if repeated := [name for name in named if named.count(name) > 1]:
            raise InputError(f"{repeated[0]} is named twice among the reward functions: name it once, with a weight")
        if self.reward_weights and len(self.reward_weights) != len(named):
            raise InputError(f"reward_weights has {len(self.reward_weights)} numbers for {len(named)} reward functions")
        if self.reward_model_weight is not None and not named:
            raise InputError("reward_model_weight needs reward functions: name one, or remove reward_model_weight")

    @property
    def labelled_reward_model(self) -> str | None:
        """The reward model, with #label if reward_label is set."""
        return f"{self.reward_model}#{self.reward_label}" if self.reward_label else self.reward_model

    @property
    def named_functions(self) -> list[str]:
        """The reward functions, module:function."""
        return [*([self.reward_function] if self.reward_function else []), *self.reward_functions]

    @property
    def uses_reward_model(self) -> bool:
        """Whether a reward model gives the scores or a part of them."""
        return not self.named_functions or self.reward_model_weight is not None
