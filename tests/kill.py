"""Kills every stage again and again, and checks that its result is that of an uninterrupted run.

    python -m tests.kill --kills 100

A stage gets a signal at a random moment, every third time while it writes a checkpoint, and is started again with the same
command until it finishes. Four signals of five are SIGKILL; the fifth is SIGTERM, after which it saves.
Writes runs/measured/kill.json, which `python -m tests.pages runs/measured/kill.json` puts into docs/resume.md.
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

from stages.common.options import CHAIN, SavingOptions
from stages.common.programs import OPTIONS
from tests.forks import ONE_THREAD, fork
from tests.pages.measured import record

os.environ.update(ONE_THREAD)

RECIPE = Path(__file__).parent / "toy.yaml"
# sizes that leave something to interrupt, and a checkpoint at every step
ARGUMENTS = {"ppo": ["--total_episodes", "96"], "comparisons": ["--batch_size", "16"]}
SAVING = ["--save_steps", "1", "--save_minutes", "none"]


def start(stage: str, run: Path, output: Path) -> int:
    """Starts a stage in a process of its own, and returns its process id."""
    saving = SAVING if saves(stage) else []
    arguments = ARGUMENTS.get(stage, []) + (["--model", str(run / "dropout")] if stage == "sft" else [])
    argv = ["--recipe", str(RECIPE), "--run", str(run), "--output", str(output), *saving, *arguments]
    return fork(stage, argv, Path(f"{output}.log"))


def saves(stage: str) -> bool:
    """Whether the stage saves checkpoints."""
    return issubclass(OPTIONS[stage], SavingOptions)


def add_dropout(run: Path) -> None:
    """Makes a copy of the pretrained model with dropout, so that SFT draws random numbers, as with GPT-2's own."""
    shutil.copytree(run / "pretrain", run / "dropout")
    config = json.loads((run / "dropout" / "config.json").read_text())
    config |= dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.1)
    (run / "dropout" / "config.json").write_text(json.dumps(config))


def has_ended(pid: int, output: Path, wait: bool = False) -> bool:
    """Whether the process has ended. Raises RuntimeError, with the end of its log, if it failed without a signal."""
    ended, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
    expected = (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)
    if ended and os.waitstatus_to_exitcode(status) not in expected:
        log = Path(f"{output}.log").read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"process {pid} ended with {os.waitstatus_to_exitcode(status)}:\n{log}")
    return bool(ended)


def uninterrupted(stage: str, run: Path) -> float:
    """Runs a stage and returns the seconds that it took."""
    started = time.time()
    has_ended(start(stage, run, run / stage), run / stage, wait=True)
    return time.time() - started


def killed(stage: str, run: Path, output: Path, kills: int, seconds: float, rng: random.Random) -> Counter:
    """Interrupts the stage `kills` times; every run that finishes must have the result that is in `run`."""
    counts = Counter(interruptions=0)
    writing = output.with_name(f".{output.name}.partial") / "checkpoints"
    while counts["interruptions"] < kills or not output.exists():
        if output.exists():
            compare(run / stage, output)
            counts["runs compared"] += 1
            shutil.rmtree(output)
        pid, until = start(stage, run, output), time.time() + rng.uniform(0, 0.7) * seconds
        in_write = saves(stage) and rng.random() < 1 / 3
        number = signal.SIGKILL if rng.random() < 0.8 else signal.SIGTERM
        while not has_ended(pid, output):
            writes = in_write and is_written(writing)
            if counts["interruptions"] < kills and time.time() > until and writes == in_write:
                os.kill(pid, number)
                has_ended(pid, output, wait=True)
                counts.update({"interruptions": 1, number.name: 1, "while writing a checkpoint": writes})
                break
            time.sleep(0.0005)
    compare(run / stage, output)
    counts["runs compared"] += 1
    return counts


def is_written(checkpoints: Path) -> bool:
    """Whether a checkpoint is being written."""
    try:
        return any(checkpoints.glob(".step-*"))
    except FileNotFoundError:  # the stage has just renamed the folder
        return False


def compare(whole: Path, pieces: Path) -> None:
    """Raises AssertionError unless all files of two results have the same bytes, and their logs the same numbers."""
    names = [sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) for folder in (whole, pieces)]
    assert names[0] == names[1], set(names[0]) ^ set(names[1])
    for name in names[0]:
        one, other = ((folder / name).read_bytes() for folder in (whole, pieces))
        if name == "stage.json":
            one, other = ({k: json.loads(b).get(k) for k in ("rows", "history", "metrics")} for b in (one, other))
            drop_timings([one["metrics"] or {}, other["metrics"] or {}])
        elif name.endswith("log.jsonl"):
            one, other = ([json.loads(line) for line in b.splitlines()] for b in (one, other))
            drop_timings(one + other)
        elif name.endswith("manifest.json") or name == "README.md":
            continue  # one hashes log.jsonl, which has timings; the other says when the stage finished
        assert one == other, f"{name} differs"


def drop_timings(rows: list[dict]) -> None:
    for row in rows:
        row.pop("episodes_per_second", None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each stage")
    parser.add_argument("--stages", nargs="*", default=CHAIN)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for stage in CHAIN:
        import_module(f"stages.{stage}")  # before anything is timed
    with tempfile.TemporaryDirectory() as folder:
        run, rng = Path(folder) / "toy", random.Random(given.seed)
        seconds = {}
        for stage in CHAIN:
            seconds[stage] = uninterrupted(stage, run)
            if stage == "pretrain":
                add_dropout(run)
        for stage in given.stages:
            started = time.time()
            counts = killed(stage, run, Path(folder) / "killed" / stage, given.kills, seconds[stage], rng)
            record("kill", {stage: dict(counts)})
            text = ", ".join(f"{count} {what}" for what, count in counts.items())
            print(f"{stage:<12}{text}: the same bytes, {time.time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
