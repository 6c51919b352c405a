"""Measures how well a reward model and a policy learn the taste of a rater from 60 rankings.

python -m tests.taste runs/tiny [runs/taste]

For each rater of tests/raters.py: it ranks completions of the SFT model of a finished default run, then `make ppo` with
the recipe mine follows in a run of its own. Prints the accuracy of the reward model on rankings of other prompts, the
share of answers that the rater likes before and after PPO, and seconds.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from data.rankings import FILE, FOLDER
from rlhf.evaluate import Estimate, ratio_estimate
from rlhf.models import context_length, load_policy, load_scorer, max_prompt_length
from rlhf.reward import by_prompt, pad_ranks, pair_accuracy, score_sequences
from rlhf.rollout import sample_completions
from rlhf.rows import Row, Tally, read_rows, write_rows
from rlhf.tokens import comparison_dataset, load_tokenizer, prompt_dataset
from stages.common.recipe import recipe_path
from tests.raters import RATERS, ranks_of

RANKINGS, K = 60, 4
RESPONSE_LENGTH = 64
Score = Callable[[Sequence[str]], list[float]]


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


def decisions(items: Iterable[Row], score: Score, rater: str) -> list[Row]:
    """What `make rank` writes when a rater ranks the items by a score."""
    rows = []
    for number, item in enumerate(items):
        count = len(item["completions"])
        page = {"models": ["sft"] * count, "shown": list(range(count)), "all_bad": False, "flag": False, "note": ""}
        person = {"rater": rater, "time": "2026-11-28T12:00:00+00:00", "seconds": 5.0}
        rows.append({"id": f"{number}", **item, **page, "ranks": ranks_of(score(item["completions"])), **person})
    return rows


def write_rankings(run: Path, rows: Iterable[Row]) -> None:
    """Writes decisions where the recipe mine reads them."""
    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    write_rows(run / FOLDER / FILE, rows)


def recipe_on(base: Path, folder: Path) -> Path:
    """The recipe mine, with another base."""
    text = recipe_path("mine").read_text().replace("base: runs/tiny", f"base: {base}")
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


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


def sitting(base: Path, run: Path, name: str) -> None:
    """Rankings, reward model and policy of one rater; prints the measurements."""
    score, likes = RATERS[name]
    run.mkdir(parents=True, exist_ok=True)
    prompts = read_rows(base / "data" / "prompts.jsonl", "prompts")[:RANKINGS]
    fresh = read_rows(base / "data" / "prompts_test.jsonl", "prompts")[:]
    write_rankings(run, decisions(answers(base / "sft", prompts, K, seed=1), score, name))
    recipe, started = recipe_on(base.resolve(), run), time.time()
    variables = {**os.environ, "RECIPE": str(recipe), "RUN": str(run)}
    subprocess.run([sys.executable, "-m", "stages", "ppo"], env=variables, check=True)
    seconds = time.time() - started
    before, after = (answers(model, fresh, K, seed=2) for model in (base / "sft", run / "ppo"))
    print(f"{name}: {len(fresh)} other prompts, {K} answers each")
    print(f"accuracy        {reward_accuracy(run / 'reward', before, score)}")
    print(f"accuracy before {reward_accuracy(base / 'reward', before, score)}")
    print(f"liked before PPO {share(before, likes)}, after {share(after, likes)}")
    print(f"seconds: {seconds:.0f}, of which " + ", ".join(f"{s} {took(run, s):.0f}" for s in ("reward", "ppo")))


def took(run: Path, stage: str) -> float:
    """The seconds of a finished stage."""
    return float(json.loads((run / stage / "stage.json").read_text())["seconds"])


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit(
            "usage: python -m tests.taste BASE [FOLDER]: the folder of a finished default run, and one for the results"
        )
    for name in RATERS:
        sitting(Path(sys.argv[1]), Path(*sys.argv[2:3] or ["runs/taste"]) / name, name)


if __name__ == "__main__":
    main()
