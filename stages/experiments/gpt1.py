"""GPT-1's claims on tasks of the world: what pretraining gives, what lambda gives, and which layers carry it."""

from typing import Any

import numpy as np
from transformers import AutoConfig

from rlhf import InputError
from rlhf.rows import read_jsonl
from stages.common.run import Run, record_of
from stages.experiments.output import interval, plot
from stages.experiments.results import estimate, row_of
from stages.experiments.variants import SEEDS, Runs, Variant, variant

QUESTION = "Does generative pretraining help on supervised tasks, and does the language model's loss beside theirs?"
PAPER = "Radford et al. (2018), Improving Language Understanding by Generative Pre-Training, section 5"
LOOK = "the gap between pretrained and from scratch, and whether each transferred layer adds to the accuracy."
CHANGE = "ROWS in `stages/experiments/gpt1.py`: with more training rows the gap closes."
PAGE = "paper-experiments.md"

TASKS = ("topic", "entailment", "similarity", "choice")
ROWS = {"topic": 500, "entailment": 1000, "similarity": 500, "choice": 300}  # to train on
LAMBDAS = (0.5, 0.0)
PRETRAINED, SCRATCH = "pretrained", "from scratch"
LAYERS = (0, 1, 2)  # transferred, beside all; the recipe tiny has three
LAYERED = ("topic", "entailment", "choice")  # the tasks of the sweep over layers


def setting(task: str, lm_coef: float = 0.5, **options: Any) -> list[Variant]:
    """A setting of a task, one variant for each seed, which is also that of the training rows."""
    common = {"task": task, "rows": ROWS[task], "lm_coef": lm_coef, **options}
    return [variant("task", **common, save_minutes="none", seed=seed) for seed in SEEDS]


def started(task: str, start: str, lm_coef: float) -> list[Variant]:
    """A task from the whole pretrained model or from scratch."""
    return setting(task, lm_coef, **({"scratch": "true"} if start == SCRATCH else {}))


def variants() -> list[Variant]:
    """Each task from both starts with each lambda, and with each number of layers."""
    both = [v for task in TASKS for start in (PRETRAINED, SCRATCH) for lm in LAMBDAS for v in started(task, start, lm)]
    return [*both, *(v for task in LAYERED for layers in LAYERS for v in setting(task, layers=layers))]


def prepare(runs: Runs) -> None:
    """Raises InputError if the pretrained model of the finished run has too few layers for the sweep."""
    if (count := layer_count(runs)) <= max(LAYERS):
        raise InputError(f"{runs.base} has a model of {count} layers: lower LAYERS, or take another BASE")


def layer_count(runs: Runs) -> int:
    """The number of layers of the pretrained model."""
    return int(AutoConfig.from_pretrained(Run(runs.base).find("pretrain")).num_hidden_layers)


def correct(runs: Runs, made: list[Variant]) -> np.ndarray:
    """Whether each held-out row is answered correctly, (seeds, rows)."""
    files = [runs.result(v) / "predictions.jsonl" for v in made]
    return np.array([[float(row["predicted"] == row["label"]) for _, row in read_jsonl(file)] for file in files])


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row for each task and setting: accuracy, the gain over scratch, and what lambda 0.5 gains over 0."""
    rows, count = [], layer_count(runs)
    for task in TASKS:
        results = {
            (start, lm): correct(runs, started(task, start, lm)) for start in (PRETRAINED, SCRATCH) for lm in LAMBDAS
        }
        majority = np.mean([record_of(runs.result(v))["metrics"]["majority"] for v in started(task, PRETRAINED, 0.5)])
        for (start, lm), numbers in results.items():
            entries: dict[str, Any] = {"accuracy": estimate(numbers), "majority": float(majority)}
            if start == PRETRAINED:
                entries |= {"layers": count, "gain": estimate(numbers, results[SCRATCH, lm])}
            if lm:
                entries["lm_gain"] = estimate(numbers, results[start, 0.0])
            rows.append(row_of(task=task, start=start, lm_coef=lm, **entries))
        for layers in LAYERS if task in LAYERED else ():
            numbers = correct(runs, setting(task, layers=layers))
            entries = {"layers": layers, "gain": estimate(numbers, results[SCRATCH, 0.5])}
            rows.append(row_of(task=task, start=PRETRAINED, lm_coef=0.5, accuracy=estimate(numbers), **entries))
    return rows


def of(rows: list[dict[str, Any]], task: str, start: str, lm_coef: float) -> dict[str, Any]:
    """The row of a task with all layers, which alone has `majority`."""
    same = (row for row in rows if (row["task"], row["start"], row["lm_coef"]) == (task, start, lm_coef))
    return next(row for row in same if "majority" in row)


def sweep(rows: list[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    """The rows of a task with lambda 0.5 by the number of layers transferred."""
    own = [row for row in rows if (row["task"], row["start"], row["lm_coef"]) == (task, PRETRAINED, 0.5)]
    return sorted(own, key=lambda row: row["layers"])


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """Accuracy of each task from both starts with each lambda; and against the number of layers transferred."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    settings = [(start, lm) for start in (PRETRAINED, SCRATCH) for lm in LAMBDAS]
    for number, (start, lm) in enumerate(settings):
        own = [{**of(rows, task, start, lm), "x": i + 0.18 * (number - 1.5)} for i, task in enumerate(TASKS)]
        plot(left, own, "x", "accuracy", label=f"{start}, λ = {lm:g}", linestyle="none")
    left.set(xticks=range(len(TASKS)), xticklabels=TASKS, ylabel="accuracy on held-out rows")
    left.plot(range(len(TASKS)), [of(rows, t, PRETRAINED, 0.5)["majority"] for t in TASKS], "k_", label="majority")
    left.legend(fontsize=8)
    for task in LAYERED:
        plot(right, sweep(rows, task), "layers", "accuracy", label=task)
    right.set(xlabel="layers transferred", xticks=[row["layers"] for row in sweep(rows, LAYERED[0])])
    right.legend(fontsize=8)


def seen(rows: list[dict[str, Any]]) -> str:
    """What pretraining and lambda give on each task; and what the embeddings alone and each further layer give."""
    whole = {task: of(rows, task, PRETRAINED, 0.5) for task in TASKS}
    accuracies = ", ".join(
        f"{task} {interval(row, 'accuracy')} against {interval(of(rows, task, SCRATCH, 0.5), 'accuracy')}"
        for task, row in whole.items()
    )
    layers = "; ".join(f"{task} {_course(sweep(rows, task))}" for task in LAYERED)
    return (
        f"Pretrained against from scratch, the accuracy is {accuracies}: pretraining {_verdict(whole, 'gain')}, and "
        f"λ = 0.5 in place of 0 {_verdict(whole, 'lm_gain')} for pretrained models and "
        f"{_verdict({task: of(rows, task, SCRATCH, 0.5) for task in TASKS}, 'lm_gain')} from scratch. "
        f"With the embeddings alone, then with each further layer, the accuracy is: {layers}."
    )


def _verdict(rows: dict[str, dict[str, Any]], name: str) -> str:
    """On which tasks a gain is clear: its interval is above 0, or below."""
    better = [task for task, row in rows.items() if row[f"{name}_low"] > 0]
    worse = [task for task, row in rows.items() if row[f"{name}_high"] < 0]
    parts = [f"{verb} on {' and '.join(tasks)}" for verb, tasks in (("helps", better), ("hurts", worse)) if tasks]
    return " and ".join(parts) or "makes no clear difference"


def _course(rows: list[dict[str, Any]]) -> str:
    """The accuracies by the number of layers, and whether the whole model is clearly better than its embeddings."""
    first, last = rows[0], rows[-1]
    accuracies = ", ".join(f"{row['accuracy']:.2f}" for row in rows)
    clear = last["accuracy_low"] > first["accuracy_high"]
    return f"{accuracies} ({'the layers help' if clear else 'no clear gain'})"
