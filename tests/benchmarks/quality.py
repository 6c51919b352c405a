"""Time to a given quality: seconds of training until answers to held-out prompts reach a gold of 6, ours and TRL 1.12's.

    make quality            a run of `make ppo` must be there: both start from its SFT and its reward model; an hour

Each side trains on one thread and writes its policy every few steps; the clock, of process CPU time, stands still while
it does. Afterwards every policy answers the held-out prompts at temperature 1. Each side has a search over as many
settings, one run each on one seed; what is fastest there, of ours, of TRL 1.12 PPOTrainer and of its RLOOTrainer, is run on
other seeds, which alone are compared, because the fastest of many owes some of it to chance. The picture is
docs/quality.png.
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
from statistics import median

ROOT = Path(__file__).parents[2]
GOLD, STEPS, EVERY = 6.0, 80, 8  # to be reached; PPO steps of a run; steps between policies that are judged
ANSWERS = 4  # to each held-out prompt
SEEDS = (1, 2, 3)  # on which the fastest are compared; the search is on seed 0
# of the recipe, what both sides know by one name
SHARED = ("total_episodes", "num_ppo_epochs", "num_mini_batches", "learning_rate", "kl_coef")
TWO_EPOCHS = {"num_ppo_epochs": 2, "num_mini_batches": 2, "learning_rate": 5e-4}  # as many updates, on staler answers
MORE_KL = {"kl_coef": 0.16}


def rloo(number: int, **options) -> dict:
    return {"ptx_coef": 0.0, "advantage_estimator": "rloo", "num_generations": number, **options}


# first the recipe's own settings, then what might be faster; as many for each side
SEARCH = {
    "ours": {
        "recipe, with the mix": {},
        "recipe": {"ptx_coef": 0.0},
        "bf16": {"ptx_coef": 0.0, "bf16": True},
        "kl / 2": {"ptx_coef": 0.0, "kl_coef": 0.06},
        "RLOO of 4": rloo(4),
        "RLOO of 8": rloo(8),
        "RLOO of 8, bf16": rloo(8, bf16=True),
        "RLOO of 8, bf16, more kl": rloo(8, bf16=True, **MORE_KL),
    },
    "TRL 1.12 PPO": {
        "recipe": {},
        "lr 1e-3": {"learning_rate": 1e-3},
        "2 epochs": TWO_EPOCHS,
        "kl / 2": {"kl_coef": 0.06},
    },
    "TRL 1.12 RLOO": {
        "of 4": rloo(4),
        "of 8": rloo(8),
        "of 8, bf16": rloo(8, bf16=True),
        "of 8, bf16, more kl": rloo(8, bf16=True, **MORE_KL),
    },
}
COLOURS = {
    "ours": ("#1f6feb", "#b6d4fb"),
    "TRL 1.12 PPO": ("#d1495b", "#f0c3ca"),
    "TRL 1.12 RLOO": ("#e08e2b", "#f5dcb9"),
}


def ours(run: Path, folder: Path, changed: dict) -> None:
    """Trains as `make ppo` does, and writes policies and seconds."""
    from rlhf.config import PPOConfig
    from rlhf.data import Tally, prompt_dataset, read_rows
    from rlhf.models import context_length, load_policy, load_scorer, load_tokenizer, room_for_prompt
    from rlhf.scoring import last_token_scores
    from rlhf.trainer import PPOTrainer
    from stages.options import parse
    from stages.ppo import Options, new_value_model, pretraining_text

    config: PPOConfig = parse(Options, "ppo", ["--recipe", "tiny", *(f"--{k}={v}" for k, v in changed.items())])
    tokenizer = load_tokenizer(run / "sft")
    policy, reference = (load_policy(run / "sft", tokenizer) for _ in range(2))
    rows = read_rows(run / "data/prompts.jsonl", "prompts")
    text = []
    if config.ptx_coef:
        text = pretraining_text(run / "data/text.jsonl", config, tokenizer, context_length(policy))
    trainer = PPOTrainer(
        config, policy=policy, reference=reference, tokenizer=tokenizer,
        value_model=new_value_model(config, policy, tokenizer, run / "sft", run / "reward"),
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


def fastest(curves: list[dict], who: str) -> str:
    """The name of the setting that is the first to get there on seed 0; who never does is judged by how far it gets."""
    own = [curve for curve in curves if curve["who"] == who and curve["seed"] == 0]
    return min(own, key=lambda c: (c["seconds"] or float("inf"), -max(gold for _, gold in c["points"])))["name"]


def compared(curves: list[dict]) -> dict[str, dict]:
    """Of everyone's fastest setting: its name, the seconds on each of SEEDS (None where it did not get there)."""
    found = {}
    for who in SEARCH:
        name = fastest(curves, who)
        runs = [c for c in curves if (c["who"], c["name"]) == (who, name) and c["seed"] != 0]
        found[who] = {"name": name, "seconds": [run["seconds"] for run in sorted(runs, key=lambda run: run["seed"])]}
    return found


def middle(seconds: list[float | None]) -> float | None:
    """The median, in which those that never got there are the slowest; None if it is one of them."""
    found = median(float("inf") if second is None else second for second in seconds)
    return None if found == float("inf") else found


def draw(curves: list[dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for who, best in compared(curves).items():
        strong, pale = COLOURS[who]
        label = (
            f"{who}, {best['name']}: {_seconds(middle(best['seconds']))}, the median of {len(best['seconds'])} seeds"
        )
        for curve in (c for c in curves if c["who"] == who):
            bold = curve["name"] == best["name"] and curve["seed"] != 0
            axes.plot(*zip(*curve["points"], strict=True), color=strong if bold else pale, marker="o", markersize=3,
                      linewidth=1.6 if bold else 1, zorder=3 if bold else 2, label=label if bold else None)  # fmt: skip
            label = None if bold else label
        axes.plot([], [], color=pale, label=f"{who}, the search")
    axes.axhline(GOLD, color="#888", linewidth=1, linestyle=":")
    axes.set(xlabel="CPU seconds of PPO, one thread", ylabel="gold of held-out answers, temperature 1",
             title="Time to a given quality")  # fmt: skip
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _seconds(seconds: float | None) -> str:
    return f"not in {STEPS} steps" if seconds is None else f"{seconds:.0f} s"


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

    from stages.cli import quiet_libraries
    from stages.options import parse
    from stages.ppo import Options

    quiet_libraries()
    options = parse(Options, "ppo", ["--recipe", "tiny"])
    recipe, curves = {name: getattr(options, name) for name in SHARED}, []
    given.output.mkdir(parents=True, exist_ok=True)

    def run(who: str, name: str, seed: int) -> None:
        python, module, known = (
            (sys.executable, "quality", {}) if who == "ours" else (given.trl112, "quality_theirs", recipe)
        )
        settings = {**known, **SEARCH[who][name], "seed": seed}
        folder = given.output / "quality" / "-".join(c for c in f"{who} {name} {seed}".replace("/", "per").split())
        shutil.rmtree(folder, ignore_errors=True)  # policies of an earlier run
        folder.mkdir(parents=True)
        command = [python, "-m", f"tests.benchmarks.{module}", "--run", given.run]
        quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        with open(folder / "log", "w") as log:
            subprocess.run(
                [*command, "--worker", folder, json.dumps(settings)], check=True, cwd=ROOT, env={**os.environ, **quiet},
                stdout=log, stderr=log,
            )  # fmt: skip
        points = curve(given.run, folder)
        found = {"who": who, "name": name, "seed": seed, "settings": settings, "points": points}
        curves.append({**found, "seconds": reached(points)})
        print(
            f"{who}, {name}, seed {seed}: gold {GOLD:g} {_seconds(reached(points))}; after {points[-1][0]:.0f} s "
            f"{points[-1][1]:.2f}", flush=True,
        )  # fmt: skip
        (given.output / "quality.json").write_text(json.dumps(curves, indent=1) + "\n")

    for who, settings in SEARCH.items():
        for name in settings:
            run(who, name, 0)
    for seed in SEEDS:
        for who in SEARCH:
            run(who, fastest(curves, who), seed)
    own = middle(compared(curves)["ours"]["seconds"])
    for who, best in compared(curves).items():
        times = middle(best["seconds"])
        ratio = f"{times / own:.1f} times ours" if own and times else "–"
        print(f"{who}, {best['name']}: {_seconds(times)}, the median of {len(SEEDS)} seeds; {ratio}")
    draw(curves, given.picture)
    print(given.picture)


if __name__ == "__main__":
    main()
