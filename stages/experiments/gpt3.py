"""Examples in the prompt: whether models answer better with more of them, without training."""

from typing import Any

from rlhf.run.files import read_json
from stages.experiments.output import interval, plot
from stages.experiments.results import row_of
from stages.experiments.variants import Runs, Variant, variant

QUESTION = "Do models answer better with more examples in the prompt?"
PAPER = "GPT-3, section 3 and figure 1.2"
LOOK = (
    "whether accuracy rises from left to right, for the pretrained model and for those trained after it. `used` is the "
    "mean number of examples that fit into the context."
)
CHANGE = "SHOTS and SEPARATORS in `stages/experiments/gpt3.py`."
PAGE = "paper-experiments.md"

SHOTS = (0, 1, 4, 16)
DRAWS = 5  # of the examples of each prompt
COUNT = 200  # prompts of a task, at most
# what joins examples. GPT-3 uses line breaks; the world's pretraining text joins its sentences by a space
SEPARATORS = {"blank line": "\n\n", "space": " "}
COLOURS = {"pretrain": "tab:blue", "sft": "tab:orange", "ppo": "tab:green"}
MEASURES = ("accuracy", "gold", "logprob")


def setting(separator: str) -> Variant:
    """The evaluation with examples that are joined by this separator."""
    options: dict[str, Any] = {"shots": SHOTS, "shot_draws": DRAWS, "count": COUNT, "best_of": 0}
    if separator != "blank line":  # that is the default, and no name of a folder
        options["shot_separator"] = SEPARATORS[separator]
    return variant("evaluate", **options)


def variants() -> list[Variant]:
    """The evaluation of the finished run's models with each separator."""
    return [setting(separator) for separator in SEPARATORS]


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row for each separator, task, model and number of examples; intervals over prompts and draws of examples."""
    return [
        row_of(separator=separator, task=task, model=model, shots=int(shots), **metrics)
        for separator in SEPARATORS
        for task, models in read_json(runs.result(setting(separator)) / "metrics.json")["shots"].items()
        for model, numbers in models.items()
        for shots, metrics in numbers.items()
    ]


def measure_of(rows: list[dict[str, Any]], task: str) -> str:
    """What is compared of a task: accuracy if some answer is right, else gold, else the reference's log-probability."""
    own = [row for row in rows if row["task"] == task]
    return next(name for name in MEASURES if any(row.get(name, 0) > 0 for row in own) or name == MEASURES[-1])


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """A panel for each task: its measure by the number of examples, a colour for each model."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        name = measure_of(rows, task)
        for model, separator, own in curves(rows, task):
            style = {"color": COLOURS.get(model), "linestyle": ":" if separator == "blank line" else "-"}
            plot(axis, own, "shots", name, label=f"{model}, {separator}", **style)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xticks(numbers := sorted({row["shots"] for row in rows}), [f"{number:g}" for number in numbers])
        axis.set(title=f"{task}: {name}", xlabel="examples in the prompt")
    axis.legend(fontsize=7)


def curves(rows: list[dict[str, Any]], task: str = "") -> list[tuple[str, str, list[dict[str, Any]]]]:
    """(model, separator, its rows by the number of examples) for a task, or for each task."""
    keys = dict.fromkeys((row["task"], row["model"], row["separator"]) for row in rows if task in ("", row["task"]))
    found = []
    for key in keys:
        own = [row for row in rows if (row["task"], row["model"], row["separator"]) == key]
        found.append((key[1], key[2], sorted(own, key=lambda row: row["shots"])))
    return found


def seen(rows: list[dict[str, Any]]) -> str:
    """For each separator which models gain from examples, and what the largest number of examples does."""
    return " ".join([*(_gains(rows, separator) for separator in SEPARATORS), _most(rows)])


def _gains(rows: list[dict[str, Any]], separator: str) -> str:
    """Where the best number of examples is clearly better than none: the intervals do not overlap."""
    gains, count = [], 0
    for model, _, own in (curve for curve in curves(rows) if curve[1] == separator):
        name, count = measure_of(rows, own[0]["task"]), count + 1
        best = max(own[1:], key=lambda row: row[name])
        if best[f"{name}_low"] > own[0][f"{name}_high"]:
            gains.append(
                f"{own[0]['task']} by {model} from {name} {interval(own[0], name)} to {interval(best, name)} "
                f"with {best['shots']:.0f}"
            )
    where = f"Joined by a {separator}, examples clearly improve"
    return f"{where} {'; '.join(gains)}." if gains else f"{where} none of the {count} pairs of a task and a model."


def _most(rows: list[dict[str, Any]]) -> str:
    """Whether the largest number of examples is better or worse than one example."""
    verdicts = []
    for _, _, own in curves(rows):
        name, first, last = measure_of(rows, own[0]["task"]), own[1], own[-1]
        verdicts.append((last[f"{name}_low"] > first[f"{name}_high"]) - (last[f"{name}_high"] < first[f"{name}_low"]))
    most = max(rows, key=lambda row: row["shots"])["shots"]
    used = [row["used"] for row in rows if row["shots"] == most]
    up, down = verdicts.count(1), verdicts.count(-1)
    outcome = (
        "GPT-3's rise with the number of examples shows"
        if up > down
        else "GPT-3's rise with the number of examples does not show at this size"
    )
    return (
        f"{most:.0f} examples, of which {min(used):.1f} to {max(used):.1f} fit, are clearly better than one in {up} "
        f"and clearly worse in {down} of {len(verdicts)} cases: {outcome}."
    )
