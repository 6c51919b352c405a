"""The options of the programs that use finished models: samples, evaluate, rank, chat and report."""

from dataclasses import dataclass, fields

from rlhf import InputError
from rlhf.option import option
from stages.common.options import StageOptions

MOST_SHOTS = 10_000  # more fit into no context


@dataclass
class SamplesOptions(StageOptions):
    prompt: list[str] = option([], "prompts to answer")
    prompts: str | None = option(
        None, "JSON Lines file of {prompt} to answer; by default, without --prompt, the held-out prompts of `make data`"
    )
    template: str | None = option(
        None, 'text around each --prompt, which replaces {}; "chat" makes it a chat message of the user'
    )
    models: list[str] = option(["pretrain", "sft", "ppo"], "models to compare: stages of the run, folders or hub ids")
    count: int = option(
        6,
        "number of prompts to take from a file, alternating between tasks if it has a column `task`",
        at_least=1,
        at_most=10**9,
    )
    temperature: float = option(1.0, "sampling temperature; 0: greedy", at_least=0.01, at_most=100, or_zero=True)
    response_length: int = option(64, "tokens after which a completion is truncated", at_least=1, at_most=10**6)
    gold: str | None = option(None, "a Python function, or a classifier, of true quality, printed beside each answer")


@dataclass
class EvaluateOptions(StageOptions):
    models: list[str] = option(
        ["pretrain", "sft", "ppo"],
        "models to evaluate: stages of the run, folders or hub ids; those listed after sft are compared with it",
    )
    count: int = option(400, "maximum number of held-out prompts", at_least=1, at_most=10**9)
    temperature: float = option(
        1.0, "sampling temperature; greedy decoding is evaluated as well", at_least=0.01, at_most=100
    )
    temperatures: list[float] = option(
        [], "further temperatures at which the models answer; their metrics end in _t and the temperature: gold_t0.7"
    )
    response_length: int = option(64, "tokens after which a completion is truncated", at_least=1, at_most=10**6)
    best_of: int = option(
        0,
        "n of best-of-n, the highest-scoring of n completions of the SFT model; 0: not evaluated",
        at_least=0,
        at_most=10**4,
    )
    gold: str | None = option(None, "a Python function, or a sequence classifier, that returns true quality")
    perfect: float = option(10.0, "gold score from which an answer counts as perfect")
    judge: str | None = option(
        None, "a Python function, module:function, that tells which of two answers is better; asked in both orders"
    )
    reward_model: str | None = option(
        None, "a sequence classifier, folder#label if it has several labels; by default the result of `make reward`"
    )
    benchmarks: list[str] = option(
        [], "files in the row formats of RewardBench or RewardBench 2, on which the reward model is measured"
    )
    shots: list[float] = option([], "numbers of examples in the prompt at which tasks with right answers are asked")
    shot_draws: int = option(3, "random draws of the examples of each prompt", at_least=1, at_most=1000)
    shot_separator: str = option("\n\n", "text between examples, of prompts that are texts")

    def __post_init__(self) -> None:
        super().__post_init__()
        for number in self.shots:
            if number < 0 or number != int(number) or number > MOST_SHOTS:
                raise InputError(f"shots contains {number:g}; each must be a whole number from 0 to {MOST_SHOTS:,}")
        limits = {field.name: field.metadata["range"] for field in fields(self)}["temperature"]
        for temperature in self.temperatures:
            if temperature and temperature not in limits:
                raise InputError(f"temperatures contains {temperature:g}; each must be {limits}, or 0 for greedy")

    @property
    def numbers_of_shots(self) -> list[int]:
        """The numbers of examples, each once, in ascending order."""
        return sorted({int(number) for number in self.shots})

    @property
    def labelled_reward_model(self) -> str | None:
        """The reward model, with #label if that is named."""
        return self.reward_model


@dataclass
class RankOptions(StageOptions):
    models: list[str] = option(
        ["sft"], "models whose answers are ranked: stages of the run, folders or hub ids; several: one answer of each"
    )
    prompts: str | None = option(
        None, "JSON Lines file of {prompt}; by default prompts of `make data`, held-out ones for several models"
    )
    comparisons: str | None = option(
        None, "JSON Lines file of rankings or pairs to rank again; nothing is sampled then"
    )
    count: int = option(60, "number of prompts", at_least=1, at_most=10**6)
    completions: int = option(
        4, "K, the answers of a model to each prompt (InstructGPT: 4 to 9)", at_least=2, at_most=9
    )
    temperature: float = option(1.0, "sampling temperature", at_least=0.01, at_most=100)
    response_length: int = option(64, "tokens after which a completion is truncated", at_least=1, at_most=10**6)
    shared: float = option(
        0.2, "share of the prompts that every person ranks, to measure agreement", at_least=0, at_most=1
    )
    host: str = option("127.0.0.1", "address on which the page is served; 0.0.0.0: every address of this computer")
    port: int = option(0, "port of the page; 0: any free one", at_least=0, at_most=65535)
    browser: bool = option(True, "open the page in a browser, if there is a display")


@dataclass
class ChatOptions(StageOptions):
    models: list[str] = option(
        ["pretrain", "sft", "ppo"],
        "models to talk to: stages of the run, folders or hub ids; the last one answers first",
    )
    template: str | None = option(
        None,
        'text around each message, which replaces {}, or "chat", the tokenizer\'s chat template; by default the template '
        "of samples in the recipe, else chat",
    )
    history: bool | None = option(
        None, "whether the model sees earlier turns; by default with a chat template, but not with another template"
    )
    system: str = option("", "system message, before the first turn")
    temperature: float = option(1.0, "sampling temperature; 0: greedy", at_least=0.01, at_most=100, or_zero=True)
    response_length: int = option(256, "tokens after which an answer is truncated", at_least=1, at_most=10**6)
    export: str | None = option(
        None, "new folder for the last of the models, with the template as its chat template, instead of a chat"
    )
    web: bool = option(False, "chat in a browser instead of the terminal")
    host: str = option("127.0.0.1", "address on which the page is served; 0.0.0.0: every address of this computer")
    port: int = option(0, "port of the page; 0: any free one", at_least=0, at_most=65535)
    browser: bool = option(True, "open the page in a browser, if there is a display")


@dataclass
class ReportOptions(StageOptions):
    """A report has no options of its own: it shows what the run's folder holds; `output` is the folder it goes to."""
