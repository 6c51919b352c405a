"""Tasks that a pretrained model does when it is asked, without fine-tuning: by size and by tokens of pretraining."""

from pathlib import Path
from typing import Any

import numpy as np

from data import world
from rlhf import InputError
from rlhf.models import load_policy, on_device
from rlhf.rows import Row, read_rows
from rlhf.tokens import completion_ids, load_tokenizer
from stages.common.answers import Answerer
from stages.common.run import BASE, CHECKPOINTS, Run, record_of
from stages.experiments.output import interval, plot
from stages.experiments.results import estimate, row_of
from stages.experiments.variants import SEEDS, Runs, Variant, variant

QUESTION = "Which tasks does a pretrained model do by their wording alone, and does that grow with size and tokens?"
PAPER = "GPT-2, figure 1"
LOOK = (
    "the slope of each curve: p(output | input, task), where the wording of the prompt is all that tells the task. The "
    "learning rate falls over the whole of each run, so that a run of fewer tokens would end better than a checkpoint."
)
CHANGE = "SIZES and STEPS in `stages/experiments/gpt2.py`."
PAGE = "paper-experiments.md"

SIZES = ((1, 32), (2, 64), (3, 128), (4, 192))  # layers and width; the third is that of the recipe
STEPS, EVERY = 2000, 500  # optimizer steps of a run, and between the checkpoints that are measured
PROMPTS = 240  # held-out requests, of all tasks
RESPONSE = 64  # tokens of an answer
# what makes an answer to a request right; the other criteria of the world are about its form
RIGHT = {
    "fact": ("correct",),
    "sum": ("correct",),
    "list": ("count", "members"),
    "note": ("greets", "purpose"),
    "story": ("subject", "feeling"),
    "harm": ("refuses",),
}


def prepare(runs: Runs) -> None:
    """Raises InputError if the finished run is not one of the embedded world."""
    folder = Run(runs.base).find("data")
    if not (folder / "probes.jsonl").is_file():
        raise InputError(
            f"{folder} has no probes.jsonl: the experiment asks for truths of the embedded world; take a BASE of it"
        )


def setting(layers: int, width: int) -> list[Variant]:
    """Pretraining of this size, one variant for each seed, with the tokenizer of the finished run."""
    return [
        variant(
            "pretrain",
            layers=layers,
            width=width,
            heads=width // 16,
            max_steps=STEPS,
            save_steps=EVERY,
            save_minutes="none",
            save_total_limit=STEPS // EVERY,
            tokenizer=f"{BASE}pretrain",
            seed=seed,
        )
        for seed in SEEDS
    ]


def variants() -> list[Variant]:
    """Pretraining of each size."""
    return [v for size in SIZES for v in setting(*size)]


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row for each size, checkpoint and task: the share of right answers in greedy decoding.

    `by_size` is the difference to the smallest size after as many tokens, `by_tokens` that to the first checkpoint.
    """
    asked = questions(Run(runs.base).find("data"))
    rows: list[dict[str, Any]] = []
    of_size: dict[Any, np.ndarray] = {}
    for size in SIZES:
        for step in range(EVERY, STEPS + 1, EVERY):
            answers = [rightness(runs.result(v) / CHECKPOINTS / f"step-{step:07d}", asked) for v in setting(*size)]
            for task in asked:
                numbers = of_size[size, step, task] = np.array([right[task] for _, right in answers], dtype=float)
                entries = {"accuracy": estimate(numbers)}
                if size != SIZES[0]:
                    entries["by_size"] = estimate(numbers, of_size[SIZES[0], step, task])
                if step > EVERY:
                    entries["by_tokens"] = estimate(numbers, of_size[size, EVERY, task])
                place = {"parameters": answers[0][0], "tokens": tokens_at(runs, setting(*size)[0], step)}
                rows.append(row_of(task=task, layers=size[0], width=size[1], **place, **entries))
    return rows


def tokens_at(runs: Runs, v: Variant, step: int) -> int:
    """The tokens of pretraining up to a step: the mean of all documents, times those that were read."""
    record = record_of(runs.result(v))
    return round(record["tokens"] / record["rows"]["used"] * step * record["options"]["batch_size"])


def questions(data: Path) -> dict[str, list[Row]]:
    """The probes by kind, and the held-out requests by task."""
    asked: dict[str, list[Row]] = {}
    for row in read_rows(data / "probes.jsonl", "demonstrations"):
        asked.setdefault(row["probe"], []).append(row)
    for row in read_rows(data / "prompts_test.jsonl", "prompts")[:PROMPTS]:
        asked.setdefault(row["task"], []).append(row)
    return asked


def rightness(folder: Path, asked: dict[str, list[Row]]) -> tuple[int, dict[str, list[bool]]]:
    """The parameters of the model in a folder, and for each task whether its answer to each prompt is right."""
    tokenizer = load_tokenizer(str(folder))
    model = Answerer("", str(folder), on_device(load_policy(str(folder), tokenizer)), tokenizer)
    right = {
        task: _probes(model, rows) if "probe" in rows[0] else _requests(model, rows) for task, rows in asked.items()
    }
    return model.policy.num_parameters(), right


def _probes(model: Answerer, rows: list[Row]) -> list[bool]:
    """Whether each sentence of the pretraining text is completed correctly."""
    prompts, completions = ([row[column] for row in rows] for column in ("prompt", "completion"))
    expected = completion_ids(model.tokenizer, prompts, completions, [False] * len(rows))
    answers = model.answer(rows, max(map(len, expected)), temperature=0.0, seed=0)
    return [answer.ids[: len(ids)] == ids for answer, ids in zip(answers, expected, strict=True)]


def _requests(model: Answerer, rows: list[Row]) -> list[bool]:
    """Whether the answer to each request meets the criteria of RIGHT, as the world's parser sees it."""
    answers = model.answer(rows, RESPONSE, temperature=0.0, seed=0)
    texts, ended = [answer.text for answer in answers], [answer.finished for answer in answers]
    parts = world.criteria([row["prompt"] for row in rows], texts, ended)
    return [
        part is not None and all(part[name] > 0 for name in RIGHT[row["task"]])
        for row, part in zip(rows, parts, strict=True)
    ]


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """Accuracy by size after the last step, and by tokens at the largest size; a curve for each task."""
    left, right = figure.subplots(1, 2)
    for task in dict.fromkeys(row["task"] for row in rows):
        plot(left, at_the_end(rows, task), "parameters", "accuracy", label=task)
        plot(right, of_the_largest(rows, task), "tokens", "accuracy", label=task)
    left.set(title="after all tokens", xlabel="parameters", xscale="log", ylabel="accuracy")
    right.set(title="the largest model", xlabel="tokens of pretraining")
    right.legend(fontsize=7)


def at_the_end(rows: list[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    """The rows of a task after the last step, by size."""
    most = max(row["tokens"] for row in rows)
    return sorted((r for r in rows if (r["task"], r["tokens"]) == (task, most)), key=lambda row: row["parameters"])


def of_the_largest(rows: list[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    """The rows of a task at the largest size, by tokens."""
    most = max(row["parameters"] for row in rows)
    return sorted((r for r in rows if (r["task"], r["parameters"]) == (task, most)), key=lambda row: row["tokens"])


def seen(rows: list[dict[str, Any]]) -> str:
    """Which tasks grow with size, and which with tokens."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    by_size = {task: at_the_end(rows, task) for task in tasks}
    by_tokens = {task: of_the_largest(rows, task) for task in tasks}
    small, large = by_size[tasks[0]][0], by_size[tasks[0]][-1]
    early = by_tokens[tasks[0]][0]
    return (
        f"From {small['parameters']:,.0f} to {large['parameters']:,.0f} parameters, after {large['tokens']:,.0f} "
        f"tokens, {_outcome(by_size, 'by_size')}. From {early['tokens']:,.0f} to {large['tokens']:,.0f} tokens, at the largest "
        f"size, {_outcome(by_tokens, 'by_tokens')}."
    )


def _outcome(courses: dict[str, list[dict[str, Any]]], gain: str) -> str:
    """Where the accuracy of the last row is clearly above that of the first, and where it is not."""
    rising = [task for task, own in courses.items() if own[-1][f"{gain}_low"] > 0]
    parts = [
        f"{task} from {courses[task][0]['accuracy']:.2f} to {interval(courses[task][-1], 'accuracy')}"
        for task in rising
    ]
    rest = [f"{task} ({own[-1]['accuracy']:.2f})" for task, own in courses.items() if task not in rising]
    if not rising:
        return "the accuracy of no task clearly rises"
    return f"the accuracy rises: {', '.join(parts)}" + (f"; not clearly: {', '.join(rest)}" if rest else "")
