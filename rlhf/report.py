"""Plots and tables of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from rlhf.escape import display_width, markdown, pad_right

# metric -> title of its panel
PANELS = {
    "score": "reward model's score",
    "gold": "gold (true quality)",
    "kl": "KL to the SFT model, nats a response",
    "ptx_loss": "loss on pretraining text, nats a token",
    "entropy": "entropy, nats a token",
    "length": "length, tokens",
    "held_out/perplexity": "perplexity of held-out text",
}


OTHERS = ("reward", "people", "seconds", "benchmarks", "shots")  # entries of the metrics that are not models
SHOTS_COLUMNS = ("accuracy", "logprob", "gold")
BENCHMARK_COLUMNS = ("pair_accuracy", "best_of_n", "ties_score", "score")  # the mean is that of the last one


def draw_training(history: Sequence[dict[str, float]], path: Path) -> None:
    """Plots PPO's metrics over steps into the image file `path`.

    There is a panel for each metric in PANELS that occurs, for each reward function and for each criterion. Evaluations
    on held-out prompts are points in the panels of their metrics.
    """
    names = dict.fromkeys(name for step in history for name in step)
    parts = [name for name in names if name.startswith(("rewards/", "gold/"))]
    titles = {**PANELS, **({"score": "score"} if parts else {}), **{name: name.replace("$", r"\$") for name in parts}}
    shown = [name for name in titles if name in names]
    columns = 3
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.6 * rows), squeeze=False, layout="constrained")
    for axis, name in zip(axes.flat, shown, strict=False):
        for metric, style in ((name, {"linewidth": 1.6}), (f"held_out/{name}", {"marker": "o", "label": "held out"})):
            if points := [(step["step"], step[metric]) for step in history if metric in step]:
                axis.plot(*zip(*points, strict=True), **style)
        axis.set_title(titles[name], fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(shown) :]:
        axis.remove()
    for axis in axes[-1]:
        axis.set_xlabel("step", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def metrics_table(metrics: dict[str, dict[str, float]]) -> str:
    """A Markdown table of the metrics, with a row per metric and a column per model."""
    models = [name for name in metrics if name not in OTHERS]
    names = dict.fromkeys(name for model in models for name in metrics[model] if not name.endswith(("_low", "_high")))
    rows = [["", *map(markdown, models)]]
    rows += [[markdown(name), *(_cell(metrics[model], name) for model in models)] for name in names]
    return _table(rows)


def benchmark_tables(benchmarks: dict[str, dict[str, Any]]) -> str:
    """A Markdown table for each benchmark file, with a row per subset and their mean in the last row."""
    sections = []
    for file, metrics in benchmarks.items():
        subsets = metrics["subsets"]
        names = [name for name in BENCHMARK_COLUMNS if any(name in subset for subset in subsets.values())]
        rows = [["", "rows", *names]]
        rows += [
            [markdown(name), str(subset["rows"]), *(_cell(subset, column) for column in names)]
            for name, subset in subsets.items()
        ]
        rows.append(["mean", str(metrics["rows"]), *[""] * (len(names) - 1), _cell(metrics, "mean")])
        sections.append(f"{markdown(file)}, reward model {markdown(metrics['model'])}\n\n{_table(rows)}")
    return "\n\n".join(sections)


def shots_table(shots: dict[str, dict[str, dict[str, dict[str, float]]]]) -> str:
    """A Markdown table of answers with examples in the prompt, with a row per task, model and number of examples."""
    measured = [
        (task, model, number, metrics)
        for task, models in shots.items()
        for model, numbers in models.items()
        for number, metrics in numbers.items()
    ]
    names = [name for name in SHOTS_COLUMNS if any(name in metrics for *_, metrics in measured)]
    rows = [["", "", "shots", "used", *names]]
    rows += [
        [markdown(task), markdown(model), number, f"{metrics['used']:.1f}", *(_cell(metrics, name) for name in names)]
        for task, model, number, metrics in measured
    ]
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    """A Markdown table whose first row is the header."""
    widths = [max(display_width(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(pad_right(cell, width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def agreement_line(metrics: dict[str, dict[str, float]]) -> str:
    """How often people who ranked the same answers order two of them alike, as a paragraph; "" if that is unknown."""
    if "people" not in metrics:
        return ""
    return f"\n\nAgreement of people who ranked the same answers: {_cell(metrics['people'], 'agreement')}"


def _cell(metrics: dict[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    interval = f" [{metrics[f'{name}_low']:.2f}, {metrics[f'{name}_high']:.2f}]" if f"{name}_low" in metrics else ""
    return f"{metrics[name]:.2f}{interval}"
