"""Kills stages for real, again and again, and looks whether what comes out in the end is what would have been.

    python -m tests.kill --kills 100

A stage runs in a process of its own, forked from this one so that it need not import everything anew, gets SIGKILL at a
random moment, every third time while it writes a checkpoint, and is started again with the same command until it finishes.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # a pool of threads does not survive a fork

import torch

from stages.cli import main as run_stage

STAGES = ("data", "pretrain", "sft", "comparisons", "reward", "ppo")
RECIPE = Path(__file__).parent / "toy.yaml"


def start(stage: str, run: Path, output: Path) -> int:
    """Starts a stage in a process of its own, its words added to `output`.log, and returns the number of the process."""
    module = import_module(f"stages.{stage}")
    output.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(f"{output}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    if pid := os.fork():
        os.close(log)
        return pid
    os.dup2(log, 1)
    os.dup2(log, 2)
    sizes = {"ppo": ["--total_episodes", "96"], "comparisons": ["--batch_size", "16"]}
    saving = ["--save_steps", "1", "--save_minutes", "none"] if hasattr(module.Options, "save_steps") else []
    sys.argv = [
        stage,
        "--recipe",
        str(RECIPE),
        "--run",
        str(run),
        "--output",
        str(output),
        *saving,
        *sizes.get(stage, []),
    ]
    status = 1
    try:
        run_stage(stage, module.Options, module.work)
        status = 0
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def ended(pid: int) -> bool:
    """Whether the process has ended. Raises RuntimeError if it has failed by itself."""
    found, status = os.waitpid(pid, os.WNOHANG)
    if found and os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
        raise RuntimeError(f"process {pid} ended with {os.waitstatus_to_exitcode(status)}")
    return bool(found)


def uninterrupted(stage: str, run: Path) -> float:
    """Runs a stage into its own place and returns the seconds it took."""
    started, pid = time.time(), start(stage, run, run / stage)
    while not ended(pid):
        time.sleep(0.001)
    return time.time() - started


def killed(stage: str, run: Path, output: Path, kills: int, seconds: float, rng: random.Random) -> dict[str, int]:
    """Kills the stage `kills` times in all; every run that gets to its end must be the one in `run`."""
    counts = {"kills": 0, "in the write of a checkpoint": 0, "runs compared": 0}
    writing = output.with_name(f".{output.name}.partial") / "checkpoints"
    while counts["kills"] < kills or not output.exists():
        if output.exists():
            compare(run / stage, output)
            counts["runs compared"] += 1
            shutil.rmtree(output)
        pid, until = start(stage, run, output), time.time() + rng.uniform(0, 0.7) * seconds
        in_write = rng.random() < 1 / 3
        while not ended(pid):
            caught = in_write and any(writing.glob(".step-*"))
            if counts["kills"] < kills and time.time() > until and caught == in_write:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                counts["kills"] += 1
                counts["in the write of a checkpoint"] += caught
                break
            time.sleep(0.0005)
    compare(run / stage, output)
    counts["runs compared"] += 1
    return counts


def compare(whole: Path, pieces: Path) -> None:
    """Raises AssertionError unless all files of two results are the same bytes, and all that was logged the same numbers."""
    names = [sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) for folder in (whole, pieces)]
    assert names[0] == names[1], set(names[0]) ^ set(names[1])
    for name in names[0]:
        one, other = ((folder / name).read_bytes() for folder in (whole, pieces))
        if name == "stage.json":
            one, other = ({k: json.loads(b).get(k) for k in ("rows", "history", "metrics")} for b in (one, other))
            drop_speed([one["metrics"] or {}, other["metrics"] or {}])
        elif name.endswith("log.jsonl"):
            one, other = ([json.loads(line) for line in b.splitlines()] for b in (one, other))
            drop_speed(one + other)
        elif name.endswith((".png", "manifest.json", "trainer_state.json")):
            continue  # a picture may hold the time; of the others every file is compared by itself
        assert one == other, f"{name} differs"


def drop_speed(rows: list[dict]) -> None:
    for row in rows:
        row.pop("episodes_per_second", None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each stage")
    parser.add_argument("--stages", nargs="*", default=STAGES)
    parser.add_argument("--keep", help="work in this folder, and leave it")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder, rng = given.keep or temporary, random.Random(given.seed)
        run = Path(folder) / "toy"
        for stage in STAGES:
            started, seconds = time.time(), uninterrupted(stage, run)
            if stage in given.stages:
                counts = killed(stage, run, Path(folder) / "killed" / stage, given.kills, seconds, rng)
                found = ", ".join(f"{count} {what}" for what, count in counts.items())
                print(f"{stage:<12}{found}: all the same bytes, {time.time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
