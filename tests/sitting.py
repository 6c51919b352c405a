"""The whole sitting, measured: a rater ranks 60 answers in a browser, and a reward model and a policy follow its taste.

make sitting BASE=runs/tiny

For each rater of tests/raters.py, on a finished default run: `make rank RECIPE=mine` serves the page, and the rater ranks
what it shows, in headless Chromium. Ctrl-C ends it; the command that it prints follows, `make ppo RECIPE=mine`. Then the
rater compares answers of before and after PPO on the page of `make rank MODEL="sft ppo"`. Prints a table; exits with
status 1 if a target is missed. Results: runs/sitting-<rater>, with pictures of the pages; the table of docs/taste.md.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.evaluate import Estimate, ratio_estimate
from rlhf.models import context_length, load_policy, load_scorer, max_prompt_length
from rlhf.reward import by_prompt, pad_ranks, pair_accuracy, score_sequences
from rlhf.rollout import sample_completions
from rlhf.rows import Row, Tally, read_rows
from rlhf.tokens import comparison_dataset, load_tokenizer, prompt_dataset
from stages.common.run import settings_of
from tests.forks import ROOT
from tests.pages.__main__ import publish_all
from tests.pages.measured import record
from tests.raters import RATERS, Score, ranks_of
from tests.stages.web.browsing import FLAGS, chromium
from tests.stages.web.rater import Rater, make_command, rank_server, variables

RANKINGS, K, RESPONSE_LENGTH = 60, 4, 64
ACCURACY, TIMES, MACHINE_SECONDS = 0.8, 2.0, 600.0  # targets of each sitting: at least; at least; less than


@dataclass
class Sitting:
    """What was measured of one rater."""

    name: str
    rankings: int = 0
    browser: float = 0.0  # seconds of the rater on both pages
    machine: float = 0.0  # all other seconds
    stages: dict[str, float] = field(default_factory=dict)  # the seconds of each, which the machine's include
    accuracy: Estimate | None = None  # of the reward model on pairs of new answers
    accuracy_before: Estimate | None = None  # of the base's reward model
    liked_before: Estimate | None = None  # the share of answers
    liked_after: Estimate | None = None
    win_rate: str = "?"

    def missed(self) -> list[str]:
        """The targets that were missed, in words."""
        assert self.accuracy and self.liked_before and self.liked_after
        times = self.liked_after.value / max(self.liked_before.value, 1e-9)
        targets = {
            f"{self.rankings} rankings, not {RANKINGS}": self.rankings == RANKINGS,
            f"the accuracy, {self.accuracy.value:.3f}, is below {ACCURACY}": self.accuracy.value >= ACCURACY,
            f"the machine took {self.machine:.0f} s, not less than {MACHINE_SECONDS:.0f}": self.machine
            < MACHINE_SECONDS,
            f"liked answers are {times:.2f} times as many, not {TIMES:g} times": times >= TIMES,
        }
        return [f"{self.name}: {text}" for text, reached in targets.items() if not reached]

    def row(self) -> dict[str, str]:
        """Its row of the table, by COLUMNS."""
        stages = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in self.stages.items())
        cells = [
            *(self.name, str(self.rankings), str(self.accuracy), str(self.accuracy_before)),
            *(str(self.liked_before), str(self.liked_after), self.win_rate),
            *(f"{self.machine:.0f} ({stages})", f"{self.browser:.0f}"),
        ]
        return dict(zip(COLUMNS, cells, strict=True))


COLUMNS = (
    "rater",
    "rankings",
    "accuracy",
    "of the base's reward model",
    "liked before PPO",
    "liked after",
    "win rate of PPO over SFT",
    "machine, s",
    "rater, s",
)


# --- the sitting ------------------------------------------------------------------------------------------------------


def sit(browser: Any, base: Path, run: Path, name: str) -> Sitting:
    """Rankings, reward model and policy of one rater, and what the rater then says of the policy."""
    score, likes = RATERS[name]
    sitting, started = Sitting(name), time.time()
    place = ("RECIPE=mine", f"RUN={run}", f"BASE={base}")
    count, output = on_page(browser, sitting, score, run, *place, f"COUNT={RANKINGS}", f"K={K}")
    sitting.rankings = count
    follow(output)
    sitting.stages = {stage: took(run, stage) for stage in ("comparisons", "reward", "ppo")}
    fresh = read_rows(base / "data" / "prompts_test.jsonl", "prompts")[:]
    before, after = (answers(model, fresh, K, seed=2) for model in (base / "sft", run / "ppo"))
    sitting.accuracy = reward_accuracy(run / "reward", before, score)
    sitting.accuracy_before = reward_accuracy(base / "reward", before, score)
    sitting.liked_before, sitting.liked_after = share(before, likes), share(after, likes)
    _, output = on_page(browser, sitting, score, run, *place, "MODEL=sft ppo", f"COUNT={RANKINGS}")
    if found := re.search(r"win rate of ppo over sft: (.*?\])", output):
        sitting.win_rate = found[1]
    sitting.machine = time.time() - started - sitting.browser
    return sitting


def on_page(browser: Any, sitting: Sitting, score: Score, run: Path, *words: str) -> tuple[int, str]:
    """Serves the page, and ranks all that it shows; the number of rankings, and what was printed."""
    print(f"\n$ make rank {shlex.join(words)}", flush=True)
    with rank_server(*words) as server:
        rater = Rater(browser, server.address, sitting.name, score)
        count = rater.rank_all(run / f"page-of-{len(list(run.glob('page-*.png'))) + 1}.png")
        rater.tab.close()
    sitting.browser += rater.seconds
    if rater.problems:
        raise SystemExit("\n".join(["the console of the browser says:", *rater.problems]))
    return count, server.output


def follow(output: str) -> None:
    """Runs the command that make rank has printed at its end."""
    found = re.search(r"`make (.*)` trains on them", output)
    if not found:
        raise SystemExit("make rank did not print the next command")
    print(f"\n$ make {found[1]}", flush=True)
    if status := subprocess.run(make_command(*shlex.split(found[1])), cwd=ROOT, env=variables()).returncode:
        raise SystemExit(status)


def took(run: Path, stage: str) -> float:
    """The seconds of a finished stage."""
    return float(json.loads((run / stage / "stage.json").read_text())["seconds"])


# --- measurements -----------------------------------------------------------------------------------------------------


def answers(model: Path, rows: Sequence[Row], k: int, seed: int, length: int = RESPONSE_LENGTH) -> list[Row]:
    """Items {prompt, completions, ended} with k sampled completions of each row's prompt that leaves room for one."""
    tokenizer = load_tokenizer(model)
    policy = load_policy(model, tokenizer).eval()
    prompts = prompt_dataset(rows, tokenizer, max_prompt_length(policy, length), Tally(used=len(rows)))
    repeated = [ids for ids in prompts["input_ids"] for _ in range(k)]
    sampled = sample_completions(policy, tokenizer, repeated, response_length=length, temperature=1.0, seed=seed)
    items = []
    for number, row in enumerate(prompts["row"]):
        own = sampled[k * number : k * number + k]
        columns = {"completions": [c.text for c in own], "ended": [c.finished for c in own]}
        items.append({"prompt": rows[row]["prompt"], **columns})
    return items


def reward_accuracy(model: Path, items: Sequence[Row], score: Score) -> Estimate:
    """The share of pairs of the items that the reward model orders as the rater does."""
    tokenizer = load_tokenizer(model)
    scorer = load_scorer(model, tokenizer)
    rows = [{**item, "ranks": ranks_of(score(item["completions"]))} for item in items]
    dataset = comparison_dataset(rows, tokenizer, context_length(scorer.model), Tally(used=len(rows)))
    ranks = pad_ranks(dataset["ranks"])
    scores = score_sequences(scorer, [ids for row in dataset["sequences"] for ids in row], tokenizer.pad_token_id)
    correct, pairs = pair_accuracy(by_prompt(scores, ranks), ranks)
    return ratio_estimate(correct.tolist(), pairs.tolist())


def share(items: Iterable[Row], likes: Score) -> Estimate:
    """The share of answers that the rater likes."""
    return ratio_estimate([sum(likes(item["completions"])) / len(item["completions"]) for item in items])


# --- the command line -------------------------------------------------------------------------------------------------


def main() -> None:
    if len(sys.argv) != 2 or not settings_of(Path(sys.argv[1])):
        sys.exit("usage: make sitting BASE=runs/tiny, the folder of a finished run of the default recipe")
    base, path = Path(sys.argv[1]), chromium()
    if path is None:
        sys.exit("no chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    sittings = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        for name in RATERS:
            run = Path("runs", f"sitting-{name}")
            shutil.rmtree(run, ignore_errors=True)
            sittings.append(sit(browser, base, run, name))
        browser.close()
    publish_all([record("sitting", {sitting.name: sitting.row() for sitting in sittings})])
    missed = [text for sitting in sittings for text in sitting.missed()]
    sys.exit("\n".join(["missed:", *missed]) if missed else 0)


if __name__ == "__main__":
    main()
