"""What a report is made of: sections with paragraphs, tables and pictures, which the page and the Markdown file share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind = "text"


@dataclass(frozen=True)
class Command:
    """A command line that the reader may copy."""

    text: str
    kind = "command"


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows. In a fold, it is shown when the reader opens it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    fold: bool = False
    numeric: bool = True  # all columns but the first are numbers
    kind = "table"


@dataclass(frozen=True)
class Picture:
    """A drawing as SVG, in the colours of a light and of a dark page, and what it shows in words."""

    name: str  # of its file
    title: str
    alt: str
    light: str
    dark: str


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side, under a heading."""

    title: str
    pictures: Sequence[Picture]
    kind = "pictures"


Block = Text | Command | Table | Pictures


@dataclass
class Section:
    """A section of the report. `missing` says what to run if the files of the section do not exist."""

    id: str
    title: str
    lead: str  # how to read it
    blocks: list[Block] = field(default_factory=list)
    missing: str = ""

    @property
    def pictures(self) -> list[Picture]:
        """All pictures of the section."""
        return [picture for block in self.blocks if isinstance(block, Pictures) for picture in block.pictures]


def number(value: Any, digits: int = 2) -> str:
    """A number as text, with a real minus sign; "–" for None, NaN or infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−") if isinstance(value, float) else f"{value:,}".replace("-", "−")


def estimate(metrics: Metrics, name: str, digits: int = 2) -> str:
    """A metric with its 95 % interval, if it has one; "–" if it is missing."""
    if not is_number(metrics.get(name)):
        return "–"
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    interval = f" [{number(low, digits)}, {number(high, digits)}]" if is_number(low) and is_number(high) else ""
    return number(metrics[name], digits) + interval


def is_number(value: Any) -> bool:
    """Whether a value of a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def place(value: Any) -> str:
    """An option's value as text; of an absolute path only the last part, because folders of a machine concern nobody."""
    if isinstance(value, list):
        return ", ".join(map(place, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)
