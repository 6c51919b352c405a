"""Samples: answers of the pretrained, the SFT and the PPO model to the same prompts, side by side.

make samples PROMPT="What is 2 + 3?"
make samples ARGS="--temperature 0 --count 12"
"""

import math
import shutil
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from rlhf.escape import markdown, pad_right, printable, wrap
from rlhf.rollout import Completion
from rlhf.rows import Row, Tally, Text, plain_text, read_lines, read_rows, valid_rows
from stages.common.answer_options import SamplesOptions
from stages.common.answers import answerable, gold_of, load_answerers, say_answering_needs
from stages.common.console import print_lines, say
from stages.common.needs import scorers
from stages.common.rewards import load_reward
from stages.common.stage import Stage, main

Cell = tuple[str, Completion, float | None]  # a model's name, its completion, and its gold if known


def work(options: SamplesOptions, stage: Stage) -> dict[str, Any]:
    """Prints the answers and writes samples.md; returns the number of prompts and the models for the record."""
    rows = choose_prompts(options, stage)
    if not rows:
        say("no held-out prompts, because the data has too few rows: give prompts with PROMPT= or --prompt")
        return {}
    answerers = load_answerers(options.models, stage)
    rows = answerable(rows, answerers, options.response_length)
    gold_function = load_reward(options.gold, stage, rows) if options.gold else None
    say_answering_needs(answerers, scorers(gold_function), rows, options.response_length, len(rows))
    answers: list[list[Completion]] = []
    golds: list[Sequence[float | None]] = []
    for model in answerers:
        answers.append(model.answer(rows, options.response_length, options.temperature, options.seed))
        golds.append(gold_of(gold_function, rows, answers[-1]) or [None] * len(rows))
    names = [model.name for model in answerers]
    table = [
        (row["prompt"], list(zip(names, completions, gold, strict=True)))
        for row, completions, gold in zip(rows, zip(*answers, strict=True), zip(*golds, strict=True), strict=True)
    ]
    print_lines(*(line for prompt, cells in table for line in as_lines(prompt, cells)))
    (stage.partial / "samples.md").write_text(as_markdown(table, names, options), encoding="utf-8")
    return {"prompts": len(rows), "models": [model.source for model in answerers]}


def choose_prompts(options: SamplesOptions, stage: Stage) -> list[Row]:
    """The rows to answer: from --prompt, from a file, or the held-out prompts, of which there may be none."""
    if options.prompt:
        rows = [("--prompt", {"prompt": from_template(text, options.template)}) for text in options.prompt]
        return list(valid_rows(rows, "prompts", Tally()))
    file = stage.rows(options.prompts, "prompts_test.jsonl")
    if not any(read_lines(file)):
        return []
    tasks: dict[str, list[Row]] = {}
    for row in read_rows(file, "prompts"):
        task = str(row.get("task", ""))  # any JSON value
        if (task in tasks or len(tasks) < options.count) and len(chosen := tasks.setdefault(task, [])) < options.count:
            chosen.append(row)
    # alternates between the tasks
    return [row for turn in zip_longest(*tasks.values()) for row in turn if row is not None][: options.count]


def from_template(text: str, template: str | None) -> Text:
    """The prompt for a text: a chat message, the template with the text in place of {}, or the text itself."""
    if template == "chat":
        return [{"role": "user", "content": text}]
    return template.replace("{}", text) if template else text


def as_lines(prompt: Text, cells: list[Cell]) -> list[str]:
    """Lines for the screen: the prompt behind a `|`, then each model's name and answer, wrapped to the terminal."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = ["", *(f"| {line}" for line in plain_text(prompt).split("\n"))]
    for name, completion, gold in cells:
        words = printable(completion.text.replace("\n", " ")).split()  # before wrapping, which measures the text
        text = " ".join(words) + ("" if completion.finished else " ...")
        score, heading = f"  (gold {gold:.1f})" if is_known(gold) else "", f"  {pad_right(printable(name), 11)}"
        lines += wrap(text + score, width, heading, " " * 13)
    return lines


def as_markdown(table: list[tuple[Text, list[Cell]]], names: list[str], options: SamplesOptions) -> str:
    """The prompts and answers as a Markdown table with a column per model."""
    heading = f"# Samples, temperature {options.temperature:g}"
    columns = " | ".join(["prompt", *map(markdown, names)])
    lines = [heading, "", f"| {columns} |", "|---" * (len(names) + 1) + "|"]
    for prompt, cells in table:
        row = [markdown(plain_text(prompt))]
        for _, completion, gold in cells:
            row.append(markdown(completion.text.strip()) + (f" *({gold:.1f})*" if is_known(gold) else ""))
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def is_known(gold: float | None) -> bool:
    """Whether a gold score is known: neither None nor NaN."""
    return gold is not None and not math.isnan(gold)


if __name__ == "__main__":
    main("samples", work)
