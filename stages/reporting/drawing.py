"""The pictures of a report, as SVG. Each is drawn once; the dark one has the same lines in other colours."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.reporting.content import Picture

# colours on a light page -> on a dark page; text has a contrast of at least 4.5 to the page
COLOURS = {
    "#1b2130": "#e8eaf0",  # text
    "#5a6272": "#a5adbd",  # labels
    "#dde1e9": "#363c49",  # grid
    "#3b52cc": "#8fa0ff",  # this run, the reward model
    "#c2410c": "#ff9d66",  # held-out points, the baseline
    "#a9b4ea": "#4a57a8",  # band
}
TEXT, LABEL, GRID, MAIN, OTHER, BAND = COLOURS
STYLE: Any = {
    "svg.hashsalt": "report",  # ids of a drawing are the same each time
    "svg.fonttype": "path",  # the same letters on every machine
    "path.simplify_threshold": 0.3,
    "text.parse_math": False,  # a name from data may have a dollar sign
    "font.size": 9.5,
    "text.color": TEXT,
    "axes.labelcolor": LABEL,
    "axes.edgecolor": GRID,
    "xtick.color": LABEL,
    "ytick.color": LABEL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
}
WIDTH = 4.4  # inches


@dataclass(frozen=True)
class Bar:
    """An estimate with its interval, if it has one, beside a label."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    baseline: float | None = None  # drawn as a small second mark


def draw(name: str, title: str, alt: str, paint: Callable[[Axes], None], height: float = 2.5) -> Picture:
    """The picture that `paint` draws on axes; `height` in inches."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    light = compact(buffer.getvalue())
    dark = re.sub("|".join(COLOURS), lambda match: COLOURS[match[0]], light)
    return Picture(name, title, alt, light, dark)


def compact(svg: str) -> str:
    """The drawing without comments and metadata, and with coordinates to a hundredth of a point: half the size."""
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    return re.sub(r"\s*\n\s*", "\n", svg)


Series = Sequence[tuple[float, float]]


def curve(
    name: str,
    title: str,
    alt: str,
    line: Series,
    band: Sequence[tuple[float, float, float]] = (),
    points: Series = (),
    single: Series = (),
) -> Picture:
    """A learning curve over steps: a line, a band of (step, low, high), held-out points, and this run among seeds."""

    def paint(axis: Axes) -> None:
        axis.grid()
        if band:
            steps, low, high = zip(*band, strict=True)
            axis.fill_between(steps, low, high, color=BAND, linewidth=0)
        if single:
            axis.plot(*zip(*single, strict=True), color=LABEL, linewidth=0.9, linestyle=(0, (3, 2)))
        if line:
            axis.plot(*zip(*line, strict=True), color=MAIN, linewidth=1.8, marker="." if len(line) == 1 else "")
        if points:
            axis.plot(*zip(*points, strict=True), color=OTHER, marker="o", markersize=5, linestyle="")
        axis.set_xlabel("step")
        axis.margins(x=0.02)

    return draw(name, title, alt, paint)


def bars(
    name: str, title: str, alt: str, entries: Sequence[Bar], axis_label: str, reference: float | None = None
) -> Picture:
    """Estimates with intervals, one below the other; `reference` is a vertical line, such as chance."""

    def paint(axis: Axes) -> None:
        axis.grid(axis="x")
        if reference is not None:
            axis.axvline(reference, color=LABEL, linewidth=1.2, linestyle=(0, (4, 3)))
        for y, entry in enumerate(entries):
            if entry.low is not None and entry.high is not None:
                axis.plot((entry.low, entry.high), (y, y), color=MAIN, linewidth=2.2, solid_capstyle="round")
            axis.plot(entry.value, y, color=MAIN, marker="o", markersize=7)
            if entry.baseline is not None:
                axis.plot(entry.baseline, y, color=OTHER, marker="|", markersize=13, markeredgewidth=2.4)
        axis.set_yticks(range(len(entries)), [shortened(entry.label) for entry in entries], color=TEXT)
        axis.set_ylim(len(entries) - 0.5, -0.5)
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        axis.set_xlabel(axis_label)

    return draw(name, title, alt, paint, height=0.85 + 0.34 * len(entries))


def reliability(name: str, title: str, alt: str, bins: Sequence[tuple[float, float, int]]) -> Picture:
    """A reliability curve: (mean predicted probability, share that came true, count) of each bin, and the diagonal."""

    def paint(axis: Axes) -> None:
        axis.grid()
        axis.plot((0.5, 1), (0.5, 1), color=LABEL, linewidth=1.2, linestyle=(0, (4, 3)))
        predicted, true, counts = zip(*bins, strict=True)
        most = max(counts)
        axis.plot(predicted, true, color=MAIN, linewidth=1.4)
        axis.scatter(predicted, true, s=[20 + 110 * count / most for count in counts], color=MAIN, linewidth=0)
        axis.set_xlim(0.48, 1.02)
        axis.set_ylim(min(0.45, min(true) - 0.05), 1.02)
        axis.set_xlabel("predicted probability")
        axis.set_ylabel("share that came true")

    return draw(name, title, alt, paint, height=3.0)


def shortened(label: str, length: int = 28) -> str:
    """A label that leaves room for the drawing. Characters that the font lacks would be boxes: they become "?"."""
    known = "".join(character if character.isprintable() and ord(character) < 0x2600 else "?" for character in label)
    return known if len(known) <= length else f"{known[: length - 1]}…"
