"""The same prompts answered by the pretrained, the SFT and the PPO model, side by side."""

import math
import shutil
import textwrap
from dataclasses import dataclass
from itertools import zip_longest

from rlhf.config import option
from rlhf.data import Row, Tally, Text, checked, read_lines, read_rows, words_of
from rlhf.rollout import Completion
from stages.answers import answerable, answerers, gold_of
from stages.cli import Stage, main, say
from stages.options import StageOptions


@dataclass
class Options(StageOptions):
    prompt: list[str] = option([], "prompts to answer")
    prompts: str | None = option(
        None, "JSON Lines file of {prompt} to answer; the held-out ones of `make data` if neither is given"
    )
    template: str | None = option(
        None, 'what makes a prompt of the words of --prompt, {} standing for them; "chat" makes them a user\'s message'
    )
    models: list[str] = option(["pretrain", "sft", "ppo"], "who answers: stages of the run, model folders or hub ids")
    count: int = option(6, "prompts to take from a file, of different tasks where it names them")
    temperature: float = option(1.0, "sampling temperature; 0 takes the likeliest token each time")
    response_length: int = option(64, "tokens after which a completion is cut off")
    gold: str | None = option(None, "a Python function, module:function, that knows true quality; it is shown")


def work(options: Options, stage: Stage) -> dict:
    rows = asked(options, stage)
    if not rows:
        say("", "no prompt is held out of so few: ask with --prompt")
        return {}
    who = answerers(options.models, stage)
    rows = answerable(rows, who, options.response_length)
    answers, golds = [], []
    for model in who:
        answers.append(model.answer(rows, options.response_length, options.temperature, options.seed))
        golds.append(gold_of(options.gold, rows, answers[-1]) or [None] * len(rows))
    names = [model.name for model in who]
    table = [
        (row["prompt"], list(zip(names, given, judged, strict=True)))
        for row, given, judged in zip(rows, zip(*answers, strict=True), zip(*golds, strict=True), strict=True)
    ]
    print("\n".join(block for prompt, cells in table for block in shown(prompt, cells)), flush=True)
    (stage.folder / "samples.md").write_text(markdown(table, names, options), encoding="utf-8")
    return {"prompts": len(rows), "models": [model.source for model in who]}


def asked(options: Options, stage: Stage) -> list[Row]:
    """The rows to answer: words of the command line, a file, or held-out prompts, of which there may be none."""
    if options.prompt:
        rows = [("--prompt", {"prompt": wrapped(words, options.template)}) for words in options.prompt]
        return list(checked(rows, "prompts", Tally()))
    file = stage.rows(options.prompts, "prompts_test.jsonl")
    if not any(read_lines(file)):
        return []
    rows = read_rows(file, "prompts")
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row.get("task", ""), []).append(row)
    turns = zip_longest(*tasks.values())
    return [row for turn in turns for row in turn if row is not None][: options.count]


def wrapped(words: str, template: str | None) -> Text:
    if template == "chat":
        return [{"role": "user", "content": words}]
    return template.replace("{}", words) if template else words


Cell = tuple[str, Completion, float | None]  # who answered, what, and how good it is


def shown(prompt: Text, cells: list[Cell]) -> list[str]:
    """Lines for the screen: the prompt, and below it each answer behind its model's name."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = ["", *words_of(prompt).split("\n")]
    for name, completion, gold in cells:
        words = " ".join(completion.text.split()) + ("" if completion.ended else " ...")
        judged = f"  (gold {gold:.1f})" if is_known(gold) else ""
        lines += textwrap.wrap(words + judged, width, initial_indent=f"  {name:<11}", subsequent_indent=" " * 13)
    return lines


def markdown(table: list[tuple[Text, list[Cell]]], names: list[str], options: Options) -> str:
    """The same as a table."""
    heads = [f"# Samples, temperature {options.temperature:g}", "", f"| prompt | {' | '.join(names)} |"]
    lines = [*heads, "|---" * (len(names) + 1) + "|"]
    for prompt, cells in table:
        row = [words_of(prompt)]
        for _, completion, gold in cells:
            row.append(completion.text.strip() + (f" *({gold:.1f})*" if is_known(gold) else ""))
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def is_known(gold: float | None) -> bool:
    return gold is not None and not math.isnan(gold)


if __name__ == "__main__":
    main("samples", Options, work)
