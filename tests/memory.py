"""Compares the memory that each stage says it needs with its measured peak, at three sizes of the benchmark.

    python -m tests.memory              about a quarter of an hour on a CPU, and 7 GB of memory
    python -m tests.memory tiny small   two minutes

Each stage is a process of its own with one thread; the peak is that of its resident memory, as the system reports it.
Writes runs/measured/memory.json, which `python -m tests.pages runs/measured/memory.json` puts into docs/memory.md.
"""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.workloads import SIZES
from tests.pages.measured import record

STAGES = ("pretrain", "sft", "comparisons", "reward", "ppo", "evaluate")
SAID = re.compile(r"needs about ([\d.]+) GB")
MODELS = "import sys, pathlib; from tests.benchmarks.inputs import make_models; from tests.benchmarks.workloads import \
Workload; make_models(pathlib.Path(sys.argv[1]), Workload('ppo', sys.argv[2]))"
STARTER = "import os, sys; pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); \
_, status, usage = os.wait4(pid, 0); print(usage.ru_maxrss, flush=True); sys.exit(os.waitstatus_to_exitcode(status))"
RECIPE = """
data:
  folder: {folder}
  text: [text.jsonl]
  demonstrations: [demonstrations.jsonl]
  prompts: [prompts.jsonl]
  test_rows: 24
pretrain:
  tokenizer: {folder}/policy
  layers: {size.layers}
  width: {size.width}
  heads: {size.heads}
  context: {size.context}
  max_steps: 3
sft:
  model: {folder}/policy
  max_steps: 3
comparisons:
  labeller: tests.rewards:exclamation_marks
  model: {folder}/policy
  count: 24
  test_count: 4
  response_length: 48
reward:
  model: {folder}/policy
  batch_size: 4
ppo:
  model: {folder}/policy
  reward_model: {folder}/scorer
  total_episodes: 48
  batch_size: 16
  num_ppo_epochs: 1
  response_length: 48
  ptx_batch_size: 8
  show_samples: 0
evaluate:
  models: [{folder}/policy]
  response_length: 48
"""


def write_inputs(folder: Path, size: str) -> None:
    """Writes the models, the rows of random words, and the recipe."""
    subprocess.run([sys.executable, "-c", MODELS, str(folder), size], check=True, stdout=subprocess.DEVNULL)
    rng = random.Random(0)

    def words(low: int, high: int) -> str:
        return " ".join(f"w{rng.randrange(2, SIZES[size].vocabulary)}" for _ in range(rng.randint(low, high)))

    rows = {
        "text": [{"text": words(48, 88)} for _ in range(120)],
        "demonstrations": [{"prompt": words(24, 40), "completion": f" {words(4, 47)}"} for _ in range(120)],
        "prompts": [{"prompt": words(24, 40)} for _ in range(120)],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, size=SIZES[size]))


def run(stage: str, folder: Path) -> tuple[str, float]:
    """The output of a stage and its peak memory in GB."""
    command = [sys.executable, "-m", f"stages.{stage}", f"--recipe={folder}/recipe.yaml", f"--run={folder}/run"]
    return peak_of(command, {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})


def peak_of(command: list[str], environment: dict[str, str]) -> tuple[str, float]:
    """The output of a command and its peak resident memory in GB."""
    # another small process starts it, because Linux counts the peak from the memory of the parent on
    small = [sys.executable, "-c", STARTER, *command]
    with subprocess.Popen(small, env=environment, stdout=subprocess.PIPE, text=True) as process:
        output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{output}")
    output, _, peak = output.rstrip().rpartition("\n")
    return output, int(peak) * 1024 / 1e9


def main() -> None:
    print("| size | stage | said, GB | measured, GB | said / measured |\n|---|---|---|---|---|")
    for size in sys.argv[1:] or ("tiny", "small", "gpt2"):
        with TemporaryDirectory() as place:
            write_inputs(Path(place), size)
            run("data", Path(place))
            numbers = {}
            for stage in STAGES:
                output, peak = run(stage, Path(place))
                said = float(SAID.findall(output)[-1])
                numbers[stage] = (said, peak)
                print(f"| {size} | {stage} | {said:.2f} | {peak:.2f} | {said / peak:.2f} |", flush=True)
        record("memory", {size: numbers})


if __name__ == "__main__":
    main()
