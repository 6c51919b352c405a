"""Time to a given quality: seconds of training until answers to held-out prompts reach a gold of 6, ours and TRL 1.12's.

    make quality            a run of `make ppo` must be there: both start from its SFT and its reward model

Each side trains on one thread and writes its policy every few steps; the clock, of process CPU time, stands still while
it does. Afterwards every policy answers the held-out prompts at temperature 1. Each side gets a search over its settings,
one run each; all of them are shown. The picture is docs/quality.png.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLD, STEPS, EVERY = 6.0, 80, 8  # to be reached; PPO steps of a run; steps between policies that are judged
ANSWERS = 4  # to each held-out prompt
# of the recipe, what both sides know by one name
SHARED = ("total_episodes", "num_ppo_epochs", "num_mini_batches", "learning_rate", "kl_coef")
TWO_EPOCHS = {"num_ppo_epochs": 2, "num_mini_batches": 2, "learning_rate": 5e-4}  # as many updates, on staler answers
# first the recipe's own settings, then what might be faster; as many runs for each side
OURS = {
    "recipe, with the mix": {},
    "recipe": {"ptx_coef": 0.0},
    "lr 1e-3": {"ptx_coef": 0.0, "learning_rate": 1e-3},
    "bf16": {"ptx_coef": 0.0, "bf16": True},
    "kl / 2": {"ptx_coef": 0.0, "kl_coef": 0.06},
}
THEIRS = {
    "recipe": {},
    "lr 1e-3": {"learning_rate": 1e-3},
    "2 epochs": TWO_EPOCHS,
    "kl / 2": {"kl_coef": 0.06},
    "kl / 4": {"kl_coef": 0.03},
}


def ours(run: Path, folder: Path, changed: dict) -> None:
    """Trains as `make ppo` does, and writes policies and seconds."""
    from rlhf.config import PPOConfig
    from rlhf.data import Tally, prompt_dataset, read_rows
    from rlhf.models import context_length, load_policy, load_scorer, load_tokenizer, room_for_prompt
    from rlhf.scoring import last_token_scores
    from rlhf.trainer import PPOTrainer
    from stages.options import parse
    from stages.ppo import Options, pretraining_text

    config: PPOConfig = parse(Options, "ppo", ["--recipe", "tiny", *(f"--{k}={v}" for k, v in changed.items())])
    tokenizer = load_tokenizer(run / "sft")
    policy, reference = (load_policy(run / "sft", tokenizer) for _ in range(2))
    rows = read_rows(run / "data/prompts.jsonl", "prompts")
    text = []
    if config.ptx_coef:
        text = pretraining_text(run / "data/text.jsonl", config, tokenizer, context_length(policy))
    trainer = PPOTrainer(
        config, policy=policy, reference=reference, value_model=load_scorer(run / "reward"), tokenizer=tokenizer,
        reward=partial(last_token_scores, load_scorer(run / "reward").requires_grad_(False)), text=text,
        prompts=prompt_dataset(rows, tokenizer, room_for_prompt(policy, config.response_length), Tally())["input_ids"],
    )  # fmt: skip
    clock = Clock(folder, policy)
    for step in trainer.train():
        clock.step(step.number)


class Clock:
    """Seconds of CPU time so far, and the policy that was had for them."""

    def __init__(self, folder: Path, policy):
        self.folder, self.policy, self.seconds, self.started = folder, policy, 0.0, time.process_time()

    def step(self, number: int) -> None:
        self.seconds += time.process_time() - self.started
        if number % EVERY == 0:
            self.policy.save_pretrained(self.folder / str(number))
            (self.folder / str(number) / "seconds").write_text(str(self.seconds))
        if number == STEPS:
            os._exit(0)  # from wherever in a trainer's loop this is
        self.started = time.process_time()


def judge(run: Path, folder: Path) -> float:
    """The mean gold of answers to the held-out prompts, at temperature 1."""
    from data.world import gold
    from rlhf.data import Tally, prompt_dataset, read_rows
    from rlhf.models import load_policy, load_tokenizer, room_for_prompt
    from rlhf.rollout import complete
    from rlhf.scoring import score_texts

    tokenizer = load_tokenizer(run / "sft")
    policy, rows = load_policy(folder, tokenizer), ANSWERS * read_rows(run / "data/prompts_test.jsonl", "prompts")
    prompts = prompt_dataset(rows, tokenizer, room_for_prompt(policy, 64), Tally())["input_ids"]
    found = complete(policy, tokenizer, prompts, response_length=64, temperature=1.0, seed=0)
    scores = score_texts(gold, rows, [c.text for c in found], [c.ended for c in found])
    known = [score for score in scores if score == score]
    return sum(known) / len(known)


def curve(run: Path, folder: Path) -> list[tuple[float, float]]:
    """Seconds and gold of a run, from the SFT model on."""
    steps = sorted((path for path in folder.iterdir() if (path / "seconds").is_file()), key=lambda path: int(path.name))
    points = [(float((path / "seconds").read_text()), judge(run, path)) for path in steps]
    return [(0.0, judge(run, run / "sft")), *points]


def reached(points: list[tuple[float, float]]) -> float | None:
    """Seconds until the gold is there, between two points on the line that joins them."""
    for (s0, g0), (s1, g1) in zip(points, points[1:], strict=False):
        if g1 >= GOLD:
            return s0 + (s1 - s0) * max(0.0, (GOLD - g0) / (g1 - g0))
    return None


def draw(curves: dict[str, dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for who, (strong, pale) in {"ours": ("#1f6feb", "#b6d4fb"), "TRL 1.12": ("#d1495b", "#f0c3ca")}.items():
        own = {name: run for name, run in curves.items() if run["who"] == who}
        # who never gets there is judged by how far it gets
        best = min(own.values(), key=lambda run: (run["seconds"] or float("inf"), -max(g for _, g in run["points"])))
        for name, run in own.items():
            bold = run is best
            reached = f"{run['seconds']:.0f} s" if run["seconds"] else f"not in {run['points'][-1][0]:.0f} s"
            axes.plot(*zip(*run["points"], strict=True), color=strong if bold else pale, marker="o", markersize=3,
                      linewidth=2 if bold else 1, zorder=3 if bold else 2, label=f"{name}: {reached}" if bold else None)  # fmt: skip
        axes.plot([], [], color=pale, label=f"{who}, the other settings tried")
    axes.axhline(GOLD, color="#888", linewidth=1, linestyle=":")
    axes.set(xlabel="CPU seconds of PPO, one thread", ylabel="gold of held-out answers, temperature 1",
             title="Time to a given quality")  # fmt: skip
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"), help="a run of `make ppo`")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    parser.add_argument("--picture", type=Path, default=Path("docs/quality.png"))
    parser.add_argument("--trl112", default=".venv-trl112/bin/python", help="Python of the environment with TRL 1.12.0")
    parser.add_argument("--worker", nargs=2, metavar=("FOLDER", "SETTINGS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return ours(given.run, Path(given.worker[0]), json.loads(given.worker[1]))
    if not (given.run / "reward" / "stage.json").is_file():
        raise SystemExit(f"no finished reward model in {given.run}: make ppo first")

    from stages.options import parse
    from stages.ppo import Options

    options = parse(Options, "ppo", ["--recipe", "tiny"])
    recipe = {name: getattr(options, name) for name in SHARED}
    curves, settings = {}, {"ours": OURS, "TRL 1.12": {name: {**recipe, **own} for name, own in THEIRS.items()}}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    for who, python, module in (("ours", sys.executable, "quality"), ("TRL 1.12", given.trl112, "quality_theirs")):
        for name, changed in settings[who].items():
            folder = given.output / "quality" / f"{who} {name}".replace("/", "per").replace(" ", "-")
            shutil.rmtree(folder, ignore_errors=True)  # policies of an earlier run
            folder.mkdir(parents=True)
            command = [
                python,
                "-m",
                f"tests.benchmarks.{module}",
                "--run",
                given.run,
                "--worker",
                folder,
                json.dumps(changed),
            ]
            with open(folder / "log", "w") as log:
                subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=log, stderr=log)
            points = curve(given.run, folder)
            curves[f"{who}, {name}"] = {"who": who, "changed": changed, "points": points, "seconds": reached(points)}
            print(f"{who}, {name}: gold {GOLD:g} after {reached(points)} s; {points[-1][1]:.2f} at the end", flush=True)
            (given.output / "quality.json").write_text(json.dumps(curves, indent=1) + "\n")
    draw(curves, given.picture)
    print(given.picture)


if __name__ == "__main__":
    main()
