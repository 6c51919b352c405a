"""The output of an experiment: its table as CSV, its picture, and the section of a page of docs/ about it."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from types import ModuleType
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from rlhf.escape import display_width, pad_right
from rlhf.run.files import read_json, write_json
from stages.common.console import print_lines

Rows = list[dict[str, Any]]
DOCS = Path("docs/experiments")  # the tables and pictures of the page below
PAGE = Path("docs/experiments.md")  # of an experiment that names no other page
TABLE, PICTURE, SEEN = "table.csv", "picture.png", "seen.md"
WIDTH = 120  # characters of a line of the page
FACTS = "facts.json"  # when, where and how long an experiment ran; in DOCS of each experiment


def write_output(name: str, module: ModuleType, rows: Rows, folder: Path) -> None:
    """Writes and prints what an experiment has found. The sentences are made from the table as it is in the file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / TABLE, rows)
    rows = read_table(folder / TABLE)
    draw_picture(module, rows, folder / PICTURE)
    text = module.seen(rows)
    (folder / SEEN).write_text(f"{module.QUESTION} ({module.PAPER})\n\n{text}\n", encoding="utf-8")
    print_lines("", *as_lines(rows), "", text, "", *(f"in {folder / file}" for file in (TABLE, PICTURE, SEEN)))


def write_table(path: Path, rows: Rows) -> None:
    """The rows as CSV; an entry that a row lacks is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: Path) -> Rows:
    """The rows of such a file: numbers as floats, empty entries left out."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{name: _number(text) for name, text in row.items() if text != ""} for row in csv.DictReader(file)]


def _number(text: str) -> float | str:
    return float(text) if re.fullmatch(r"-?[\d.]+(e[-+]?\d+)?|-?inf|nan", text) else text


def as_lines(rows: Rows) -> list[str]:
    """The table for the screen, with intervals in brackets."""
    names = list(dict.fromkeys(name for row in rows for name in row if not name.endswith(("_low", "_high"))))
    cells = [names, *([_cell(row, name) for name in names] for row in rows)]
    widths = [max(display_width(row[i]) for row in cells) for i in range(len(names))]
    return [
        "  ".join(pad_right(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]


def _cell(row: dict[str, Any], name: str) -> str:
    value = row.get(name, "")
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{text} [{row[f'{name}_low']:.3g}, {row[f'{name}_high']:.3g}]" if f"{name}_low" in row else text


def draw_picture(module: ModuleType, rows: Rows, path: Path) -> None:
    """The picture of the experiment, from the rows of its table."""
    figure = plt.figure(figsize=(9, 3.6), layout="constrained")
    module.draw(rows, figure)
    for axis in figure.axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot(axis: Any, rows: Rows, x: str, y: str, **style: Any) -> None:
    """`y` against `x` as a line with error bars, if the rows have its interval."""
    rows = [row for row in rows if x in row and y in row]
    errors = None
    if rows and all(f"{y}_low" in row for row in rows):
        errors = [[row[y] - row[f"{y}_low"] for row in rows], [row[f"{y}_high"] - row[y] for row in rows]]
    style = {"marker": "o", "markersize": 4, "linewidth": 1.4, "capsize": 2, **style}
    axis.errorbar([row[x] for row in rows], [row[y] for row in rows], yerr=errors, **style)


def interval(row: dict[str, Any], name: str, digits: int = 2) -> str:
    """An estimate of a row in words: `6.21 [6.02, 6.40]`."""
    return f"{row[name]:.{digits}f} [{row[f'{name}_low']:.{digits}f}, {row[f'{name}_high']:.{digits}f}]"


# --- the page ---------------------------------------------------------------------------------------------------------


def publish(name: str, module: ModuleType, folder: Path, facts: dict[str, Any]) -> None:
    """Copies the table and the picture into docs/, and writes the section of the experiment's page."""
    DOCS.mkdir(parents=True, exist_ok=True)
    for file, suffix in ((TABLE, "csv"), (PICTURE, "png")):
        (DOCS / f"{name}.{suffix}").write_bytes((folder / file).read_bytes())
    write_json(DOCS / FACTS, dict(sorted({**read_json(DOCS / FACTS), name: facts}.items())))
    text = section(name, module, read_table(DOCS / f"{name}.csv"), facts)
    page = page_of(module).read_text(encoding="utf-8")
    found = re.search(rf"^## {name}\n.*?(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL)
    page = page[: found.start()] + text + page[found.end() :] if found else f"{page.rstrip()}\n\n{text}"
    page_of(module).write_text(page.rstrip() + "\n", encoding="utf-8")


def page_of(module: ModuleType) -> Path:
    """The page that has the section of an experiment: its PAGE, a file in docs/, or docs/experiments.md."""
    return PAGE.with_name(getattr(module, "PAGE", PAGE.name))


def section(name: str, module: ModuleType, rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The section of the page: the question, the command, what to look at, what was seen, and what to change first.

    It tells the minutes if they were recorded.
    """
    count = round(facts.get("minutes", 0))
    minutes = f", {count} minute{'s' * (count != 1)}" if "minutes" in facts else ""
    texts = (
        f"{module.QUESTION} ({module.PAPER})",
        f"`make experiment NAME={name}`{minutes}. Look at: {module.LOOK}",
        f"{module.seen(list(rows))} [Table](experiments/{name}.csv). Change first: {module.CHANGE}",
    )
    *lead, seen = (fill(text, WIDTH, break_long_words=False, break_on_hyphens=False) for text in texts)
    return "\n\n".join([f"## {name}", *lead, f"![{module.QUESTION}](experiments/{name}.png)", seen, ""])
