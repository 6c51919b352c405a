"""A run as its stages leave it, with files small enough to write by hand."""

import json

# words that break pages: markup, the end of a script, a word without a break, right-to-left, emoji, wide letters, controls
HOSTILE = (
    "<script>document.title = 'run'</script></script><img src=x onerror=\"document.title='run'\">{{ 7 * 7 }} | `a` **b** "
    + "w" * 400
    + " مرحبا بالعالم \U0001f469\u200d\U0001f680 漢字漢字漢字 \u202etxt.exe\x1b[2J\u2028 </textarea></style> [x](javascript:alert(1))"
)
RECORD = {
    "options": {"recipe": "tests/toy.yaml", "seed": 3, "ptx_coef": 0.5, "kl_coef": 0.1},
    "seconds": 75,
    "given": ["kl_coef"],
    "versions": {"torch": "2.0"},
    "finished": "2026-01-02T03:04:05+00:00",
    "rows": {"used": 1234, "dropped": {"too long": 7}},
}


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def answer(prompt, model, gold, text="The cat sat.", temperature=1.0, task="sum", **others):
    numbers = {"finished": True, "length": 5, "score": gold / 2, "gold": gold, "kl": None}
    row = {"prompt": prompt, "task": task, "model": model, "temperature": temperature, "completion": text}
    return {**row, **numbers, **others}


def answers(count=30):
    """Prompt i gains i - 10 by PPO; prompts 0, 2, 4, ... are sums, the others facts."""
    rows = []
    for i in range(count):
        task = ("sum", "fact")[i % 2]
        for temperature in (1.0, 0.0):
            shared = {"temperature": temperature, "task": task}
            rows.append(answer(f"Question number {i}?", "sft", 10.0, "The cat sat on the mat.", **shared))
            text = HOSTILE if i == 0 else f"The dog sat on the mat {'and slept ' * (i % 3)}."
            rows.append(answer(f"Question number {i}?", "ppo", float(i), text, kl=i / 7, length=5 + i % 4, **shared))
        rows.append(answer(f"Question number {i}?", "best_of_n", 11.0, task=task))
    return rows


def rankings(count=12):
    """K is 3 or 4. The reward model orders all pairs as the labeller does, except the last two of each ranking."""
    rows = []
    for i in range(count):
        size = 3 + i % 2
        scores = [2.0 * (size - j) for j in range(size)]
        scores[-1], scores[-2] = scores[-2], scores[-1]
        rows.append(
            {
                "prompt": f"Rank {i}",
                "task": ("sum", "fact")[i % 2],
                "completions": [f"answer {j}" for j in range(size)],
                "ranks": list(range(size)),
                "quality": [9.0 - 2 * j for j in range(size)],
                "swapped": [False] * (size - 1) + [True],
                "scores": scores,
                "lengths": [4 + j for j in range(size)],
            }
        )
    return rows


METRICS = {
    "pretrain": {"gold": 1.0, "perplexity": 9.0, "facts": 0.9},
    "sft": {"gold": 2.0, "gold_low": 1.5, "gold_high": 2.5, "perplexity": 12.0, "facts": 0.5},
    "ppo": {
        "gold": 3.0, "perplexity": 10.0, "facts": 0.8, "kl": 1.5, "kl_low": 1.0, "kl_high": 2.0,
        "win_rate": 0.75, "win_rate_low": 0.6, "win_rate_high": 0.9, "win_rate_t0.7": 0.7, "win_rate_ties": 0.1,
        "judge_win_rate": 0.65, "judge_win_rate_low": 0.5, "judge_win_rate_high": 0.8, "judge_disagreement": 0.2,
    },
    "seconds": {"ppo": 75},
}  # fmt: skip


def write_run(folder, seeds=()):
    """A finished run, and sibling runs with other seeds."""
    write_json(folder / "run.json", {"recipe": "tests/toy.yaml", "seed": None, "base": None})
    for stage in ("sft", "ppo", "evaluate"):
        write_json(folder / stage / "stage.json", {"stage": stage, **RECORD})
    write_lines(folder / "data" / "probes.jsonl", [{"prompt": "a", "completion": "b", "probe": "facts"}])
    steps = [{"step": i, "score": i / 10, "gold": i / 5, "kl": i / 9, "rewards/a$b": 1.0 + i} for i in range(1, 9)]
    steps[3] |= {"held_out/score": 0.5, "held_out/perplexity": 11.0}
    write_lines(folder / "ppo" / "log.jsonl", steps)
    for seed in seeds:
        sibling = folder.with_name(f"{folder.name}-seed{seed}")
        write_json(sibling / "run.json", {"recipe": "tests/toy.yaml", "seed": str(seed), "base": None})
        write_lines(sibling / "ppo" / "log.jsonl", [{**step, "score": step["score"] + seed} for step in steps])
    write_json(folder / "evaluate" / "metrics.json", METRICS)
    write_lines(folder / "evaluate" / "answers.jsonl", answers())
    write_lines(folder / "evaluate" / "rankings.jsonl", rankings())
    return folder
