"""The sample output in README.md, from the files of a published run."""

import re
from textwrap import fill

from stages.common.ppo_log import COLUMNS as PRINTED
from tests.pages.runs import STAGES, of_recipe

INDENT, WIDTH = " " * 13, 110
SHOWN = ("Tess has 9 roses", "trick Clara")  # parts of the prompts whose answers are shown
COLUMNS = {name: column for name, column in PRINTED.items() if name != "episodes_per_second"}  # speed is left out


def output() -> str:
    """What `make ppo` prints, shortened: the lines whose numbers the run's files have."""
    name, run = of_recipe("tiny")[0]
    rows, log = run["rows"], run["log"]
    data = "rows: " + ", ".join(f"{count:,} {kind}" for kind, count in rows["data"].items())
    completions, swapped = run["completions"]
    reward, steps = run["evaluate"]["reward"], log[-1]["step"]
    accuracy = f"{reward['accuracy']:.3f} [{reward['accuracy_low']:.3f}, {reward['accuracy_high']:.3f}]"
    held_out = ", ".join(
        f"{n.removeprefix('held_out/')} {v:.2f}" for n, v in log[-1].items() if n.startswith("held_out/")
    )
    size = f"{run['model']['parameters']:,} parameters, vocabulary {run['model']['vocabulary']:,}"
    heads = INDENT + "".join(f"{heading:>9}" for heading, _ in COLUMNS.values()) + "      ..."
    lines = [
        f"to be made in runs/{name}: {', '.join(STAGES)}", "", "data", "...",
        fill(data, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT),
        "pretrain ...",
        f"{INDENT}{rows['pretrain']['used']:,} rows, {run['tokens']:,} tokens; {size}",
        "...", "sft ...",
        f"{INDENT}{rows['sft']['used']:,} rows, {run['epochs']['sft']:g} epochs",
        "comparisons ...",
        f"{INDENT}prompts: {rows['comparisons']['train']:,} rows; {completions} completions each, plus {swapped} taken "
        "from other prompts",
        "reward ...",
        f"{INDENT}{rows['reward']['used']:,} rows, ...; test: {run['test_rows']['used']:,} rows",
        "...", f"{INDENT}accuracy {accuracy}", "ppo ...",
        f"{INDENT}prompts: {rows['ppo']['used']:,} rows; ...; {steps} steps of {run['responses']} responses", "...",
        f"{INDENT}checks passed: ratio = 1, KL to the reference = 0, padding changes no log-probability, ...",
        heads, _step(log[0]), "...", _step(log[-1]),
        f"{INDENT}held-out prompts after step {steps}: {held_out}",
        "samples ...", "",
    ]  # fmt: skip
    return "\n".join(["```", *lines, *_answers(run["samples"]), "...", "```"])


def _step(line: dict[str, float]) -> str:
    return INDENT + "".join(f"{line[name]:9.{digits}f}" for name, (_, digits) in COLUMNS.items()) + "      ..."


def _answers(samples: list[dict[str, str]]) -> list[str]:
    """The answers of all models to the prompts of SHOWN."""
    lines = []
    for part in SHOWN:
        sample = next(sample for sample in samples if part in sample["prompt"])
        lines += [f"| {line}" for line in sample["prompt"].split("<br>")]
        for model in ("pretrain", "sft", "ppo"):
            text = re.sub(r"\*\((.+?)\)\*$", r" (gold \1)", sample[model])
            if model == "pretrain":
                text = re.sub(r"(?<=[.!?]) .* {2}\(", " ...  (", text)  # its first sentence
            lines.append(fill(text, WIDTH, initial_indent=f"  {model:<11}", subsequent_indent=INDENT))
        lines.append("")
    return lines[:-1]
