"""PPO's learning curves: one panel for each metric of log.jsonl, with the median and the range of several seeds."""

import math
import re
import statistics
from collections.abc import Sequence

from rlhf.rows import Row
from stages.reporting import drawing
from stages.reporting.content import Picture, Pictures, Section, Table, Text, is_number, number
from stages.reporting.files import RunFiles

# metric -> title of its panel; metrics that are not listed come last, under their own names
PANELS = {
    "score": "score of the reward model",
    "gold": "gold, the true quality",
    "kl": "KL to the SFT model, nats a response",
    "reward": "reward: score − penalties",
    "entropy": "entropy, nats a token",
    "length": "length, tokens",
    "ended": "share of answers that end",
    "ptx_loss": "loss on pretraining text, nats a token",
    "perplexity": "perplexity of held-out text",
    "vf_loss": "value loss",
    "explained_variance": "explained variance of the value",
    "pg_loss": "policy loss",
    "approx_kl": "KL of the update, nats a token",
    "clip_fraction": "share of clipped tokens",
    "kl_coef": "β, the KL coefficient",
    "learning_rate": "learning rate",
    "episodes_per_second": "answers a second",
}
LEFT_OUT = ("step", "ratio_p01", "ratio_p99")  # percentiles of what should be 1: for checks, see docs/metrics.md
CONSTANT = ("kl_coef", "learning_rate", "ratio_mean", "skipped", "episodes_per_second")  # shown only if they change
HELD_OUT = "held_out/"
MOST_PANELS = 40
MOST_POINTS = 300  # of a line; a longer one shows means of several steps
LEAD = (
    "Each panel shows a metric of PPO at each step. A healthy run: the score and gold rise together, the KL grows slowly, "
    "the entropy falls slowly, the loss on pretraining text stays flat. A score that rises while gold falls is "
    "over-optimisation."
)


def section(files: RunFiles, make: str) -> Section:
    """The section on learning curves. `make` is the command that makes PPO's result."""
    result = Section("curves", "Learning curves", LEAD)
    if not files.log:
        result.missing = f"PPO has no log yet: run `{make}`"
        return result
    logs = files.seeds or {files.run.folder.name: files.log}
    result.blocks.append(Text(_legend(files, logs)))
    shown = enumerate(_shown(list(logs.values())))
    pictures = [_panel(i, metric, logs, files.run.folder.name) for i, metric in shown]
    result.blocks.append(Pictures("", pictures))
    if table := evaluations(files):
        result.blocks.append(table)
    return result


def evaluations(files: RunFiles) -> Table | None:
    """The last evaluation on held-out prompts beside the best one, and which was kept; None if there were none."""
    rows = [row for row in files.log or [] if any(name.startswith(HELD_OUT) for name in row)]
    if len(rows) < 2:
        return None
    names = [name for name in rows[-1] if name.startswith(HELD_OUT)]
    measure = next((name for name in (f"{HELD_OUT}gold", f"{HELD_OUT}score") if name in names), names[0])
    kept = files.records.get("ppo", {}).get("kept", {}).get("step", rows[-1]["step"])
    best = max(rows[1:], key=lambda row: row.get(measure, -math.inf))  # gold may be unknown at some evaluations
    shown = {"before PPO": rows[0], f"highest {measure.removeprefix(HELD_OUT)}": best, "last": rows[-1]}
    if kept not in (best["step"], rows[-1]["step"]):
        shown["kept"] = next(row for row in rows if row["step"] == kept)
    return Table(
        "Evaluations on held-out prompts while PPO trained",
        ["", "step", *(name.removeprefix(HELD_OUT) for name in names)],
        [
            [
                f"{what}{', kept' * (row['step'] == kept and what != 'kept')}",
                f"{row['step']}",
                *(number(row.get(n)) for n in names),
            ]
            for what, row in shown.items()
        ],
    )


def _legend(files: RunFiles, logs: dict[str, list[Row]]) -> str:
    own, parts = logs[files.run.folder.name], []
    if len(logs) > 1:
        parts.append(
            f"{len(logs)} seeds, of the runs {', '.join(logs)}: the line is the median, the band goes from the minimum "
            f"to the maximum, the dashed line is {files.run.folder.name}."
        )
    else:
        parts.append(
            f"One seed, {own[-1]['step']:,} steps. `SEED=1` makes a sibling run; the report then shows a band."
        )
    if any(name.startswith(HELD_OUT) for row in own for name in row):
        parts.append("Orange points are measured on held-out prompts or text.")
    if len(own) > MOST_POINTS:
        parts.append(f"Each point of a line is the mean of {-(-len(own) // MOST_POINTS)} steps.")
    parts += [
        f"The options of {name} differ: {', '.join(options)}."
        for name, options in files.other_options.items()
        if options and name in logs
    ]
    return " ".join(parts)


def _shown(logs: Sequence[Sequence[Row]]) -> list[str]:
    """The metrics that have a panel, in the order of PANELS, then in that of the log."""
    rows = [row for log in logs for row in log]
    names = dict.fromkeys(name.removeprefix(HELD_OUT) for row in rows for name in row if is_number(row[name]))
    listed = [name for name in PANELS if name in names]
    parts = [name for name in names if name.startswith(("rewards/", "gold/"))]
    others = [name for name in names if name not in (*PANELS, *parts, *LEFT_OUT)]
    changing = (n for n in (*listed, *parts, *others) if n not in CONSTANT or len({row.get(n) for row in rows}) > 2)
    return list(changing)[:MOST_PANELS]


def _series(log: Sequence[Row], metric: str) -> list[tuple[float, float]]:
    return [(row["step"], float(row[metric])) for row in log if is_number(row.get(metric))]


def _panel(index: int, metric: str, logs: dict[str, list[Row]], own: str) -> Picture:
    """The panel of a metric. With several seeds: the median, the range, and the run itself."""
    title = PANELS.get(metric, metric)
    series = {name: _series(log, metric) for name, log in logs.items()}
    points = _series(logs[own], HELD_OUT + metric)
    line, band = series[own], []
    if len(logs) > 1:
        by_step: dict[float, list[float]] = {}
        for step, value in (point for points_of_run in series.values() for point in points_of_run):
            by_step.setdefault(step, []).append(value)
        steps = sorted(by_step)
        line = [(step, statistics.median(by_step[step])) for step in steps]
        band = [(step, min(by_step[step]), max(by_step[step])) for step in steps]
    size = -(-len(line) // MOST_POINTS)
    line, band = thinned(line, size), thinned_band(band, size)
    name = f"curve-{index:02d}-" + re.sub(r"[^a-z0-9]+", "-", metric.lower()).strip("-")
    single = thinned(series[own], size) if len(logs) > 1 else ()
    return drawing.curve(name, title, _in_words(title, line, points), line, band, points, single)


def thinned(line: Sequence[tuple[float, float]], size: int) -> list[tuple[float, float]]:
    """The means of the steps and of the values of every `size` points; a shorter line draws faster and takes less room."""
    parts = [line[i : i + size] for i in range(0, len(line), size or 1)]
    return [
        (statistics.fmean(step for step, _ in part), statistics.fmean(value for _, value in part)) for part in parts
    ]


def thinned_band(band: Sequence[tuple[float, float, float]], size: int) -> list[tuple[float, float, float]]:
    """The mean step, minimum and maximum of every `size` points."""
    parts = [band[i : i + size] for i in range(0, len(band), size or 1)]
    return [(statistics.fmean(p[0] for p in part), min(p[1] for p in part), max(p[2] for p in part)) for part in parts]


def _in_words(title: str, line: Sequence[tuple[float, float]], points: Sequence[tuple[float, float]]) -> str:
    """What the panel shows, for readers who do not see it."""
    told = []
    for what, series in (("", line), ("held out: ", points)):
        if series:
            (first, begin), (last, end) = series[0], series[-1]
            told.append(f"{what}{number(begin, 3)} at step {first:g}, {number(end, 3)} at step {last:g}")
    return f"{title}: {'; '.join(told)}"
