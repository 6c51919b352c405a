"""How time and memory of a step grow with the batch, the response length, the model and K: docs/growth.png.

    make growth         about five minutes; writes the table of docs/growth.md as well

Each point is measured in a process of its own with one thread, on the benchmark's tiny model with one thing changed.
"""

import sys
import tempfile
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from tests.benchmarks.bench import Process
from tests.benchmarks.inputs import make_models
from tests.benchmarks.workloads import SIZES, Side, Workload
from tests.pages.__main__ import publish_all
from tests.pages.measured import record

GROWTH = {
    "responses in a PPO step": {n: Workload("ppo", f"batch-{n}") for n in (32, 64, 128, 256)},
    "tokens of a response": {n: Workload("ppo", "long", response=n) for n in (24, 48, 96, 192, 384)},
    "width of the model": {n: Workload("ppo", f"width-{n}") for n in (64, 128, 256, 512)},
    "K, completions ranked together": {n: Workload("reward", "tiny", completions=n) for n in (2, 4, 8, 16)},
}
PICTURE = Path("docs/growth.png")


def measure(workload: Workload) -> dict[str, float]:
    """CPU seconds of a step (the median of three), and its peak memory above that of the loaded models, MB."""
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder), workload)
        with Process(Side("ours"), workload, Path(folder), sys.executable, threads=1) as process:
            loaded = process.reply()
            steps = [process.step() for _ in range(4)][1:]  # the first is a warm-up
    return {
        "seconds": median(step["cpu"] for step in steps),
        "memory_mb": max(step["memory_mb"] for step in steps) - loaded["memory_mb"],
        "tokens": median(step["tokens"] for step in steps),
        "parameters": SIZES[workload.size].policy_parameters,
    }


def draw(growth: dict[str, dict[int, dict]], path: Path) -> None:
    """Draws a column for each quantity that grows, with seconds above and memory below."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    for column, (name, points) in enumerate(growth.items()):
        for row, (key, label, colour) in enumerate(
            [("seconds", "CPU seconds a step", "#1f6feb"), ("memory_mb", "MB above the loaded models", "#d1495b")]
        ):
            axes = figure.add_subplot(2, len(growth), row * len(growth) + column + 1)
            xs, ys = list(points), [point[key] for point in points.values()]
            axes.loglog(xs, ys, color=colour, marker="o", markersize=4)
            axes.loglog(xs, [ys[-1] * x / xs[-1] for x in xs], color="#bbb", linestyle=":", linewidth=1)
            axes.set_xticks(xs, [str(x) for x in xs])
            axes.set_yticks(ys, [f"{y:,.0f}" if y >= 100 else f"{y:.3g}" for y in ys], fontsize=7)
            axes.minorticks_off()
            axes.spines[["top", "right"]].set_visible(False)
            if row:
                axes.set_xlabel(name)
            if not column:
                axes.set_ylabel(label)
    figure.suptitle("How a step grows (dotted: in proportion)")
    figure.savefig(path, dpi=130)


def main() -> None:
    growth: dict[str, dict[int, dict]] = {}
    for name, workloads in GROWTH.items():
        growth[name] = {}
        for number, workload in workloads.items():
            point = growth[name][number] = measure(workload)
            print(f"{name} {number}: {point['seconds']:.2f} CPU s, {point['memory_mb']:.0f} MB", flush=True)
    draw(growth, PICTURE)
    print(PICTURE)
    publish_all([record("growth", growth)])


if __name__ == "__main__":
    main()
