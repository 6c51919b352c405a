"""Kills stages for real, again and again, and looks whether what comes out in the end is what would have been.

    python -m tests.kill --kills 100

A stage gets a signal at a random moment, every third time while it writes a checkpoint, and is started again with the same
command until it finishes. Four signals of five are SIGKILL; SIGTERM, which lets it save, is the fifth.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

from tests.forks import ONE_THREAD, fork

os.environ.update(ONE_THREAD)

STAGES = ("data", "pretrain", "sft", "comparisons", "reward", "ppo")
RECIPE = Path(__file__).parent / "toy.yaml"
# sizes at which there is something to interrupt, and a checkpoint at every step
SIZES = {"ppo": ["--total_episodes", "96"], "comparisons": ["--batch_size", "16"]}
SAVING = ["--save_steps", "1", "--save_minutes", "none"]


def start(stage: str, run: Path, output: Path) -> int:
    """Starts a stage in a process of its own, and returns the number of the process."""
    saving = SAVING if hasattr(import_module(f"stages.{stage}").Options, "save_steps") else []
    given = SIZES.get(stage, []) + (["--model", str(run / "dropout")] if stage == "sft" else [])
    argv = ["--recipe", str(RECIPE), "--run", str(run), "--output", str(output), *saving, *given]
    return fork(stage, argv, Path(f"{output}.log"))


def with_dropout(run: Path) -> None:
    """Gives what comes after pretraining a model whose training draws random numbers, as GPT-2's own does."""
    shutil.copytree(run / "pretrain", run / "dropout")
    config = json.loads((run / "dropout" / "config.json").read_text())
    config |= dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.1)
    (run / "dropout" / "config.json").write_text(json.dumps(config))


def ended(pid: int, output: Path, wait: bool = False) -> bool:
    """Whether the process has ended. Raises RuntimeError, with the last it said, if it has failed by itself."""
    found, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
    expected = (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)
    if found and os.waitstatus_to_exitcode(status) not in expected:
        words = Path(f"{output}.log").read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"process {pid} ended with {os.waitstatus_to_exitcode(status)}:\n{words}")
    return bool(found)


def uninterrupted(stage: str, run: Path) -> float:
    """Runs a stage into its own place and returns the seconds it took."""
    started = time.time()
    ended(start(stage, run, run / stage), run / stage, wait=True)
    return time.time() - started


def killed(stage: str, run: Path, output: Path, kills: int, seconds: float, rng: random.Random) -> Counter:
    """Interrupts the stage `kills` times in all; every run that gets to its end must be the one in `run`."""
    counts = Counter(interruptions=0)
    writing = output.with_name(f".{output.name}.partial") / "checkpoints"
    while counts["interruptions"] < kills or not output.exists():
        if output.exists():
            compare(run / stage, output)
            counts["runs compared"] += 1
            shutil.rmtree(output)
        pid, until = start(stage, run, output), time.time() + rng.uniform(0, 0.7) * seconds
        saves = hasattr(import_module(f"stages.{stage}").Options, "save_steps")
        in_write, number = saves and rng.random() < 1 / 3, signal.SIGKILL if rng.random() < 0.8 else signal.SIGTERM
        while not ended(pid, output):
            caught = in_write and holds_part(writing)
            if counts["interruptions"] < kills and time.time() > until and caught == in_write:
                os.kill(pid, number)
                ended(pid, output, wait=True)
                counts.update({"interruptions": 1, number.name: 1, "in the write of a checkpoint": caught})
                break
            time.sleep(0.0005)
    compare(run / stage, output)
    counts["runs compared"] += 1
    return counts


def holds_part(checkpoints: Path) -> bool:
    """Whether a checkpoint is being written just now."""
    try:
        return any(checkpoints.glob(".step-*"))
    except FileNotFoundError:  # the stage has put the folder in its final place while we looked
        return False


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
        elif name.endswith("manifest.json"):
            continue  # sizes and hashes of files that are compared themselves, log.jsonl with its speeds among them
        assert one == other, f"{name} differs"


def drop_speed(rows: list[dict]) -> None:
    for row in rows:
        row.pop("episodes_per_second", None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each stage")
    parser.add_argument("--stages", nargs="*", default=STAGES)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for stage in STAGES:
        import_module(f"stages.{stage}")  # before any time is taken
    with tempfile.TemporaryDirectory() as folder:
        run, rng = Path(folder) / "toy", random.Random(given.seed)
        seconds = {}
        for stage in STAGES:
            seconds[stage] = uninterrupted(stage, run)
            if stage == "pretrain":
                with_dropout(run)
        for stage in given.stages:
            started = time.time()
            counts = killed(stage, run, Path(folder) / "killed" / stage, given.kills, seconds[stage], rng)
            found = ", ".join(f"{count} {what}" for what, count in counts.items())
            print(f"{stage:<12}{found}: the same bytes, {time.time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
