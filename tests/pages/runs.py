"""The numbers of a run after `make evaluate`, from the files that its stages wrote."""

import json
import math
import struct
from pathlib import Path
from typing import Any

from tests.pages.measured import Missing, describe, entry, read

FILE = "runs"
STAGES = ("data", "pretrain", "sft", "comparisons", "reward", "ppo")
TIMES = ("seconds", "cpu_seconds")  # of a stage's record; earlier records have no CPU seconds


def entry_of_run(run: Path) -> dict[str, Any]:
    """What the pages tell of a finished run, from the files that its stages wrote."""
    paths = {stage: run / stage / "stage.json" for stage in (*STAGES, "evaluate")}  # a recipe may lack some
    records = {stage: _json(path) for stage, path in paths.items() if path.is_file()}
    options = {stage: record["options"] for stage, record in records.items()}
    log = [json.loads(line) for line in (run / "ppo" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in log if line["step"]]
    metrics = _json(run / "evaluate" / "metrics.json")
    metrics.pop("seconds", None)
    gold = options["evaluate"].get("gold")
    if gold and (judge := Path(gold) / "stage.json").is_file():  # a classifier that another run trained
        metrics["judge"] = _json(judge)["metrics"]
    machine = next((record["machine"] for record in records.values() if "machine" in record), None)
    times = {name: {s: records[s][name] for s in STAGES if name in records.get(s, {})} for name in TIMES}
    numbers = {
        "recipe": options["ppo"]["recipe"],
        "seed": options["ppo"]["seed"],
        "arguments": sorted({w for record in records.values() for w in record["arguments"] if w.startswith("--")}),
        "evaluate": metrics,
        "prompts": options["evaluate"]["count"],
        **times,
        "rows": {stage: records[stage].get("rows") for stage in STAGES if stage in records},
        "test_rows": records.get("reward", {}).get("test_rows"),
        "tokens": records.get("pretrain", {}).get("tokens"),
        "epochs": {stage: options[stage].get("epochs") for stage in ("sft", "reward") if stage in options},
        "completions": [options.get("comparisons", {}).get(name) for name in ("completions", "swapped")],
        "model": _size(run / "pretrain"),
        "responses": options["ppo"]["batch_size"],
        "log": [steps[0], steps[-1]],
        "samples": _samples(run / "samples" / "samples.md"),
    }
    finished = records["evaluate"]["finished"].partition("T")[0]
    return entry(numbers, finished, describe(machine) if machine else "")


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _size(model: Path) -> dict[str, int]:
    """The number of parameters in a folder's safetensors, and of tokens; nothing if the run has no such folder."""
    if not (model / "model.safetensors").is_file():
        return {}
    with open(model / "model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    # an embedding that is also the output layer is stored once
    shapes = (tensor["shape"] for name, tensor in header.items() if name != "__metadata__")
    return {"parameters": sum(map(math.prod, shapes)), "vocabulary": _json(model / "config.json")["vocab_size"]}


def _samples(path: Path) -> list[dict[str, str]]:
    """The rows of the table of `make samples`."""
    if not path.is_file():
        return []
    lines = [line.strip("| ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    names, _, *rows = ([cell.strip() for cell in line.split(" | ")] for line in lines)
    names = [name.strip() for name in " | ".join(names).split("|")]
    return [dict(zip(names, row, strict=True)) for row in rows]


def of_recipe(recipe: str, arguments: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """The published runs of a recipe, (name, numbers) by seed: without options of a command line, or also with them.

    Raises Missing if there is none.
    """
    runs = [(name, run["numbers"]) for name, run in read(FILE).items()]
    found = [run for run in runs if run[1]["recipe"] == recipe and (arguments or not run[1]["arguments"])]
    found.sort(key=lambda run: run[1]["seed"])
    if not found:
        raise Missing(recipe)
    return found
