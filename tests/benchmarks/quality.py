"""Time to a given quality: seconds of training until answers to held-out prompts reach a gold score of 6, ours and TRL's.

    make quality            an hour; both sides start from the SFT and the reward model of a run of `make ppo`

Each side trains on one thread and writes its policy every few steps; the clock, of process CPU time, stops while it does.
Afterwards every policy answers the held-out prompts at temperature 1. Each side gets a search over as many settings, one
run each on one seed. The fastest setting of ours, of TRL 1.12's PPOTrainer and of its RLOOTrainer is then run on other
seeds, and only these runs are compared: the fastest of many runs on one seed is partly luck. The picture is
docs/quality.png; `python -m tests.pages runs/measured/quality.json` writes the table of docs/time-to-quality.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from statistics import median

from tests.pages.measured import record

ROOT = Path(__file__).parents[2]
GOLD, STEPS, EVERY = 6.0, 80, 8  # gold score to reach; PPO steps of a run; steps between saved policies
ANSWERS = 4  # to each held-out prompt
RESPONSE = 64  # maximum length of an answer, tokens
SEEDS = (1, 2, 3)  # on which the fastest settings are compared; the search is on seed 0
# options of the recipe that have the same name on both sides
SHARED = ("total_episodes", "num_ppo_epochs", "num_mini_batches", "learning_rate", "kl_coef")
# as many updates, on older answers
TWO_EPOCHS = {"num_ppo_epochs": 2, "num_mini_batches": 2, "learning_rate": 5e-4}
MORE_KL = {"kl_coef": 0.16}


def rloo(number: int, **options) -> dict:
    return {"ptx_coef": 0.0, "advantage_estimator": "rloo", "num_generations": number, **options}


# first the recipe's own settings, then candidates that might be faster, as many for each side
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


# --- training and judging one policy ----------------------------------------------------------------------------------


def train(run: Path, folder: Path, settings: dict) -> None:
    """Trains as `make ppo` does with these settings, and writes policies and seconds."""
    from rlhf.models import context_length, load_policy, load_scorer, max_prompt_length
    from rlhf.rows import Tally, read_rows
    from rlhf.scoring import reward_model_scores
    from rlhf.tokens import load_tokenizer, prompt_dataset
    from rlhf.trainer import PPOTrainer
    from stages.common.parsing import parse
    from stages.ppo import make_value_model, pretraining_text

    config = parse("ppo", ["--recipe", "tiny", *(f"--{name}={value}" for name, value in settings.items())])
    tokenizer = load_tokenizer(run / "sft")
    policy, reference = (load_policy(run / "sft", tokenizer) for _ in range(2))
    rows = read_rows(run / "data/prompts.jsonl", "prompts")
    text = []
    if config.ptx_coef:
        text = pretraining_text(run / "data/text.jsonl", config, tokenizer, context_length(policy))
    trainer = PPOTrainer(
        config, policy=policy, reference=reference, tokenizer=tokenizer,
        value_model=make_value_model(config, policy, tokenizer, run / "sft", run / "reward"),
        reward=partial(reward_model_scores, load_scorer(run / "reward").requires_grad_(False)), text=text,
        prompts=prompt_dataset(rows, tokenizer, max_prompt_length(policy, config.response_length), Tally())["input_ids"],
    )  # fmt: skip
    clock = Clock(folder, policy)
    for step in trainer.train():
        clock.step(step.number)


class Clock:
    """Counts CPU seconds of training, and saves the policy with them every few steps."""

    def __init__(self, folder: Path, policy):
        self.folder, self.policy, self.seconds, self.started = folder, policy, 0.0, time.process_time()

    def step(self, number: int) -> None:
        self.seconds += time.process_time() - self.started
        if number % EVERY == 0:
            self.policy.save_pretrained(self.folder / str(number))
            (self.folder / str(number) / "seconds").write_text(str(self.seconds))
        if number == STEPS:
            os._exit(0)  # the call comes from inside a trainer's loop, which an exception might not leave
        self.started = time.process_time()


def mean_gold(run: Path, folder: Path) -> float:
    """The mean gold score of a policy's answers to the held-out prompts, at temperature 1."""
    from data.world import gold
    from rlhf.models import load_policy, max_prompt_length
    from rlhf.rollout import sample_completions
    from rlhf.rows import Tally, read_rows
    from rlhf.scoring import call_reward_function
    from rlhf.tokens import load_tokenizer, prompt_dataset

    tokenizer = load_tokenizer(run / "sft")
    policy, rows = load_policy(folder, tokenizer), ANSWERS * list(read_rows(run / "data/prompts_test.jsonl", "prompts"))
    prompts = prompt_dataset(rows, tokenizer, max_prompt_length(policy, RESPONSE), Tally())["input_ids"]
    answers = sample_completions(policy, tokenizer, prompts, response_length=RESPONSE, temperature=1.0, seed=0)
    scores = call_reward_function(gold, rows, [a.text for a in answers], [a.finished for a in answers])
    known = [score for score in scores if score == score]  # without NaN
    return sum(known) / len(known)


# --- curves -----------------------------------------------------------------------------------------------------------


def curve_points(run: Path, folder: Path) -> list[tuple[float, float]]:
    """(CPU seconds, gold score) of the policies in a folder, from the SFT model on."""
    steps = sorted((path for path in folder.iterdir() if (path / "seconds").is_file()), key=lambda path: int(path.name))
    points = [(float((path / "seconds").read_text()), mean_gold(run, path)) for path in steps]
    return [(0.0, mean_gold(run, run / "sft")), *points]


def seconds_to_gold(points: list[tuple[float, float]]) -> float | None:
    """When a curve first reaches the gold score, by linear interpolation; None if it does not."""
    for (s0, g0), (s1, g1) in zip(points, points[1:], strict=False):
        if g1 >= GOLD:
            return s0 + (s1 - s0) * max(0.0, (GOLD - g0) / (g1 - g0))
    return None


def fastest(curves: list[dict], side: str) -> str:
    """The setting of a side that reaches the gold score first on seed 0; if none does, the one with the best score."""
    search = [curve for curve in curves if curve["side"] == side and curve["seed"] == 0]
    return min(search, key=lambda c: (c["seconds"] or float("inf"), -max(gold for _, gold in c["points"])))["name"]


def comparison(curves: list[dict]) -> dict[str, dict]:
    """The name of each side's fastest setting, and its seconds on each of SEEDS (None if it does not get there)."""
    result = {}
    for side in SEARCH:
        name = fastest(curves, side)
        runs = [c for c in curves if (c["side"], c["name"]) == (side, name) and c["seed"] != 0]
        result[side] = {"name": name, "seconds": [run["seconds"] for run in sorted(runs, key=lambda run: run["seed"])]}
    return result


def median_seconds(seconds: list[float | None]) -> float | None:
    """The median, where runs that never got there count as slowest; None if it is one of them."""
    result = median(float("inf") if second is None else second for second in seconds)
    return None if result == float("inf") else result


def draw(curves: list[dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for side, best in comparison(curves).items():
        strong, pale = COLOURS[side]
        time_needed = describe(median_seconds(best["seconds"]))
        label = f"{side}, {best['name']}: {time_needed}, the median of {len(best['seconds'])} seeds"
        for curve in (c for c in curves if c["side"] == side):
            bold = curve["name"] == best["name"] and curve["seed"] != 0
            axes.plot(*zip(*curve["points"], strict=True), color=strong if bold else pale, marker="o", markersize=3,
                      linewidth=1.6 if bold else 1, zorder=3 if bold else 2, label=label if bold else None)  # fmt: skip
            label = None if bold else label
        axes.plot([], [], color=pale, label=f"{side}, the search")
    axes.axhline(GOLD, color="#888", linewidth=1, linestyle=":")
    axes.set(xlabel="CPU seconds of PPO, one thread", ylabel="gold of held-out answers, temperature 1",
             title="Time to a given quality")  # fmt: skip
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def describe(seconds: float | None) -> str:
    return f"not in {STEPS} steps" if seconds is None else f"{seconds:.0f} s"


# --- the command line -------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace, side: str, name: str, seed: int) -> dict:
    """The curve of one run of a setting, trained in a process of its own."""
    python, module, recipe = sys.executable, "quality", {}
    if side != "ours":
        python, module, recipe = arguments.trl112, "quality_theirs", shared_options()
    settings = {**recipe, **SEARCH[side][name], "seed": seed}
    folder = arguments.output / "quality" / "-".join(f"{side} {name} {seed}".replace("/", "per").split())
    shutil.rmtree(folder, ignore_errors=True)  # policies of an earlier run
    folder.mkdir(parents=True)
    command = [python, "-m", f"tests.benchmarks.{module}", "--run", arguments.run]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with open(folder / "log", "w") as log:
        subprocess.run(
            [*command, "--worker", folder, json.dumps(settings)], check=True, cwd=ROOT,
            env={**os.environ, **environment}, stdout=log, stderr=log,
        )  # fmt: skip
    points = curve_points(arguments.run, folder)
    seconds = seconds_to_gold(points)
    print(
        f"{side}, {name}, seed {seed}: gold {GOLD:g} {describe(seconds)}; after {points[-1][0]:.0f} s "
        f"{points[-1][1]:.2f}", flush=True,
    )  # fmt: skip
    return {"side": side, "name": name, "seed": seed, "settings": settings, "points": points, "seconds": seconds}


def shared_options() -> dict:
    """The options of the recipe that TRL's trainers get as well."""
    from stages.common.parsing import parse

    options = parse("ppo", ["--recipe", "tiny"])
    return {name: getattr(options, name) for name in SHARED}


def run_of_make() -> Path:
    """The folder that make's variables name."""
    from stages.common.request import Request  # not at the top, which TRL's side imports

    return Request.read("reward", os.environ).run.folder


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--run", type=Path, default=run_of_make(), help="a run of `make ppo`, by default that of make")
    result.add_argument("--output", type=Path, default=Path("runs/bench"))
    result.add_argument("--picture", type=Path, default=Path("docs/quality.png"))
    result.add_argument("--trl112", default=".venv-trl112/bin/python", help="Python of the environment with TRL 1.12.0")
    result.add_argument("--worker", nargs=2, metavar=("FOLDER", "SETTINGS"), help=argparse.SUPPRESS)
    return result


def main() -> None:
    arguments = parser().parse_args()
    if arguments.worker:
        return train(arguments.run, Path(arguments.worker[0]), json.loads(arguments.worker[1]))
    if not (arguments.run / "reward" / "stage.json").is_file():
        raise SystemExit(f"no finished reward model in {arguments.run}: run `make ppo` first")
    import stages  # noqa: F401  sets environment variables, also for the workers; not at the top, which TRL's side imports

    warnings.filterwarnings("ignore")  # of libraries
    arguments.output.mkdir(parents=True, exist_ok=True)
    curves: list[dict] = []

    def add(side: str, name: str, seed: int) -> None:
        curves.append(measure(arguments, side, name, seed))
        record("quality", {f"{side}, {name}, seed {seed}": curves[-1]})

    for side, settings in SEARCH.items():
        for name in settings:
            add(side, name, 0)
    for seed in SEEDS:
        for side in SEARCH:
            add(side, fastest(curves, side), seed)
    ours = median_seconds(comparison(curves)["ours"]["seconds"])
    for side, best in comparison(curves).items():
        seconds = median_seconds(best["seconds"])
        ratio = f"{seconds / ours:.1f} times ours" if ours and seconds else "–"
        print(f"{side}, {best['name']}: {describe(seconds)}, the median of {len(SEEDS)} seeds; {ratio}")
    draw(curves, arguments.picture)
    print(arguments.picture)


if __name__ == "__main__":
    main()
