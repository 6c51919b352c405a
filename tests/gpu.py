"""What the GPU path does on this machine's accelerator: tests, PPO in bf16, and speed beside TRL. Run by `make gpu`.

    make gpu                     on a GPU, at most eight minutes; writes the last section of docs/gpu.md
    make gpu                     on a CPU, the same at tiny size; writes runs/gpu/gpu.md

A part that fails, or whose time is over, is reported as such, and the others run.
"""

import json
import os
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from rlhf.models import device
from tests.benchmarks.bench import processor
from tests.pages.__main__ import publish_all
from tests.pages.measured import record

ROOT = Path(__file__).parents[1]
SECONDS = 480  # for everything
LIBRARIES = ("torch", "transformers", "accelerate", "trl", "peft")
STEPS = {"cuda": 20, "cpu": 2}  # of the default recipe's PPO
GAINS = {"cuda": ("gpu-with*",), "cpu": ("with-fixed-decoding",)}  # of the optimisations for a GPU
ROWS = {"cuda": ("gpu-ppo-*", "gpu-rloo-*"), "cpu": ("function-rloo-tiny-fp32",)}


def run(title: str, command: list[str], deadline: float, **variables: str) -> tuple[str, str]:
    """The output of a command, and how it ended."""
    print(f"\n{title}: {' '.join(command)}", flush=True)
    started = time.time()
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **variables}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        output, _ = process.communicate(timeout=max(1.0, deadline - time.time()))
        state = "done" if process.returncode == 0 else f"failed with status {process.returncode}"
    except subprocess.TimeoutExpired:
        process.kill()
        output, state = process.communicate()[0], "stopped: its time was over"
    print(output[-3000:], flush=True)
    return output, f"{state}, {time.time() - started:.0f} s"


def machine(kind: str) -> str:
    """The device and the versions of libraries."""
    name = torch.cuda.get_device_name() if kind == "cuda" else f"{processor()}, {os.cpu_count()} cores"
    versions = []
    for library in LIBRARIES:
        try:
            versions.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            versions.append(f"{library} absent")
    return f"{date.today()}, {name}, Python {sys.version.split()[0]}, {', '.join(versions)}"


def speed(log: Path) -> str:
    """The median time of a PPO step, without the first two."""
    if not log.is_file():
        return "no step"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    rates = sorted(line["episodes_per_second"] for line in lines[2:] or lines)
    return f"{len(lines)} steps, {rates[len(rates) // 2]:.0f} responses per second" if rates else "no step"


def bench(title: str, rows: tuple[str, ...], output: Path, deadline: float) -> list[str]:
    """Lines of the report: how these rows of the benchmark ended, and the table of those that were measured."""
    command = [sys.executable, "-m", "tests.benchmarks.bench", "--only", *rows, "--output", str(output)]
    text, state = run(title, command, deadline)
    return [f"- {title}: {state}", "", *(line for line in text.splitlines() if line.startswith("|")), ""]


def main() -> None:
    kind = "cuda" if device().type != "cpu" else "cpu"
    deadline, folder = time.time() + SECONDS, ROOT / "runs" / "gpu"
    folder.mkdir(parents=True, exist_ok=True)
    report = [f"Measured by `make gpu`: {machine(kind)}", ""]

    tests, state = run("tests", [sys.executable, "-m", "pytest", "-m", "gpu", "tests/test_gpu.py"], deadline - 300)
    report.append(f"- Tests: {tests.strip().splitlines()[-1].strip('= ') if tests.strip() else state} ({state})")

    total = str(128 * STEPS[kind])
    options = {"RECIPE": "tiny", "RUN": str(folder / "tiny"), "PROCESSES": "1"}
    if kind == "cpu":
        options["RECIPE"] = "tests/toy.yaml"
    _, state = run("the stages before PPO", [sys.executable, "-m", "stages", "reward"], deadline - 210, **options)
    report.append(f"- Pretraining, SFT, comparisons and reward model of the recipe {options['RECIPE']}: {state}")
    arguments = f"--bf16 --show_samples 0 --total_episodes {total}"
    _, state = run("PPO", [sys.executable, "-m", "stages", "ppo"], deadline - 180, **options, ARGS=arguments)
    report.append(f"- PPO in bf16: {state}; {speed(folder / 'tiny' / 'ppo' / 'log.jsonl')}")

    report += bench("Gains of the optimisations for a GPU", GAINS[kind], folder / "gains.json", deadline - 70)
    report += bench("Speed beside TRL", ROWS[kind], folder / "bench.json", deadline)

    text = "\n".join(report).strip()
    (folder / "gpu.md").write_text(f"{text}\n", encoding="utf-8")
    print(f"\n{text}\n\n{folder / 'gpu.md'}")
    if kind == "cuda":
        publish_all([record("gpu", {"gpu": {"report": text}})])


if __name__ == "__main__":
    main()
