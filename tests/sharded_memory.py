"""The peak memory of each process in a PPO step with four models, of one process or sharded over several.

    python -m tests.sharded_memory --megabytes 200
    python -m tests.sharded_memory --megabytes 200 --processes 2

`--megabytes` is the size of one model in fp32. Prints the resident memory of each process, in MB: after the imports,
after the models have been loaded, and the peak of the whole run, the checkpoint included.
Writes runs/measured/sharded_memory.json, which `python -m tests.pages` puts into docs/scale.md.
"""

import argparse
import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator

from rlhf.config import PPOConfig
from rlhf.engine import gathered, process_index, start_sharding
from rlhf.models import load_policy, load_scorer, new_policy, new_scorer
from rlhf.run.placement import distributed, freeze
from rlhf.scoring import reward_model_scores
from rlhf.tokens import load_tokenizer, new_tokenizer
from rlhf.trainer import PPOTrainer
from stages.common.processes import _environments
from tests.pages.measured import record

LAYERS = 12


def make_models(folder: Path, megabytes: int) -> None:
    """Writes a policy and a reward model of that size with random weights."""
    tokenizer = new_tokenizer(["a fox and a dog . 1 2 3"] * 20, 400)
    width = int((megabytes * 1e6 / 4 / 12 / LAYERS) ** 0.5) // 64 * 64
    policy = new_policy(tokenizer, LAYERS, width, 8, 64, 0.02)
    for name in ("policy", "reward"):
        tokenizer.save_pretrained(folder / name)
    policy.save_pretrained(folder / "policy")
    new_scorer(folder / "policy", tokenizer).save_pretrained(folder / "reward")
    print(f"{policy.num_parameters() * 4 / 1e6:.0f} MB a model", flush=True)


def megabytes_now() -> int:
    """The resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 10**6


def step(folder: Path, save: Path) -> None:
    """Loads four models as `stages.ppo` does, trains one step and saves a checkpoint."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        start_sharding(cpu=True, precision="no")
    tokenizer, accelerator, numbers = load_tokenizer(folder / "policy"), Accelerator(cpu=True), [megabytes_now()]
    policy = distributed(load_policy(folder / "policy", tokenizer))
    reference = distributed(freeze(load_policy(folder / "policy", tokenizer), accelerator))
    value_model = distributed(load_scorer(folder / "reward", tokenizer))
    reward_model = distributed(freeze(load_scorer(folder / "reward", tokenizer), accelerator))
    numbers.append(megabytes_now())
    config = PPOConfig(
        total_episodes=8, batch_size=8, num_ppo_epochs=1, num_mini_batches=2, response_length=8, ptx_coef=0.0
    )
    trainer = PPOTrainer(
        config,
        policy=policy,
        reference=reference,
        value_model=value_model,
        reward=partial(reward_model_scores, reward_model),
        tokenizer=tokenizer,
        prompts=[[5, 6, 7, i] for i in range(8, 40)],
        accelerator=accelerator,
    )
    for _ in trainer.train():
        numbers.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)
    trainer.save_state(save)
    trainer.save_models(save)
    numbers.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)
    rows = gathered([numbers])
    if process_index() == 0:
        megabytes = round((folder / "policy" / "model.safetensors").stat().st_size / 1e6)
        record("sharded_memory", {f"{len(rows)}": {"megabytes": megabytes, "processes": rows}})
    for number, row in enumerate(rows):
        if process_index() == 0:
            print(
                f"process {number}: {row[0]:,} MB, with models {row[1]:,}, peak {row[2]:,}, with checkpoint {row[3]:,}"
            )
    accelerator.end_training()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--folder", help="of models that exist already; then this process is one of several")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.folder:
        folder = Path(arguments.folder)
        step(folder, folder / os.environ.get("RANK", "0"))
        return
    with TemporaryDirectory() as place:
        subprocess.run(
            [
                sys.executable,
                "-c",
                f"from pathlib import Path; from tests.sharded_memory import make_models; "
                f"make_models(Path({place!r}), {arguments.megabytes})",
            ],
            check=True,
        )
        for number in range(arguments.processes):
            (Path(place) / str(number)).mkdir()
        sharding = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
        environments = (
            [{**env, **sharding} for env in _environments(arguments.processes)]
            if arguments.processes > 1
            else [dict(os.environ)]
        )
        command = [sys.executable, "-m", "tests.sharded_memory", "--folder", place]
        for child in [subprocess.Popen(command, env=environment) for environment in environments]:
            child.wait()


if __name__ == "__main__":
    main()
