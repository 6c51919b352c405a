"""The tables of README.md and docs/results.md, from the published runs."""

import re
from statistics import median
from typing import Any

from tests.pages.measured import Entries, read, where
from tests.pages.runs import FILE, STAGES, of_recipe

# --- the default recipe -----------------------------------------------------------------------------------------------

# model, what, digits, the metrics of a cell
DEFAULT: list[tuple[str, str, int, list[str]]] = [
    ("pretrained", "perplexity of held-out text", 2, ["pretrain.perplexity"]),
    ("", "facts / equations recalled", 2, ["pretrain.facts", "pretrain.equations"]),
    ("", "gold, sampled / greedy", 2, ["pretrain.gold", "pretrain.gold_greedy"]),
    ("SFT", "gold, sampled / greedy", 2, ["sft.gold", "sft.gold_greedy"]),
    ("", "facts / equations recalled", 2, ["sft.facts", "sft.equations"]),
    ("", "perplexity of held-out text", 2, ["sft.perplexity"]),
    ("reward model", "accuracy against gold", 2, ["reward.accuracy"]),
    ("", "the same, without answers to other prompts", 2, ["reward.accuracy_own"]),
    ("best of n", "gold of the answer with the highest score", 2, ["best_of_n.gold"]),
    ("", "KL to SFT, nats per response", 2, ["best_of_n.kl"]),
    ("PPO", "gold, sampled / greedy", 2, ["ppo.gold", "ppo.gold_greedy"]),
    ("", "win rate over SFT, sampled / greedy", 2, ["ppo.win_rate", "ppo.win_rate_greedy"]),
    ("", "perfect answers, greedy", 2, ["ppo.perfect_greedy"]),
    ("", "KL to SFT, nats per response", 2, ["ppo.kl"]),
    ("", "responses that end with eos", 2, ["ppo.ended"]),
    ("", "facts / equations recalled", 2, ["ppo.facts", "ppo.equations"]),
    ("", "perplexity of held-out text", 2, ["ppo.perplexity"]),
]


def default() -> str:
    """The results of the default recipe: a column for each seed, and the median if there are several."""
    runs = [numbers for _, numbers in of_recipe("tiny")]
    heads = [f"seed {run['seed']}" for run in runs] + (["median"] if len(runs) > 1 else [])
    lines = [
        f"{where(entries_of('tiny'))}; {runs[0]['prompts']} held-out prompts. {widest(runs)}",
        "",
        row(["", "", *heads]),
        "|---" * (len(heads) + 2) + "|",
    ]
    for model, what, digits, names in DEFAULT:
        cells = [" / ".join(f"{value(run, name):.{digits}f}" for name in names) for run in runs]
        if len(runs) > 1:
            middle = " / ".join(f"{median(value(run, name) for run in runs):.{digits}f}" for name in names)
            cells.append(f"**{middle}**")
        lines.append(row([model, what, *cells]))
    return "\n".join(lines)


def value(run: dict[str, Any], name: str) -> float:
    """A metric of evaluate: `ppo.gold`."""
    model, metric = name.split(".")
    return run["evaluate"][model][metric]


def widest(runs: list[dict[str, Any]]) -> str:
    """The widest 95 % intervals of PPO's gold and win rate in words."""
    half = {
        name: max((value(r, f"ppo.{name}_high") - value(r, f"ppo.{name}_low")) / 2 for r in runs)
        for name in ("gold", "win_rate")
    }
    return f"95 % intervals: at most ± {half['gold']:.2f} for gold, ± {half['win_rate']:.2f} for win rates."


SUMMARY = {
    "en": {
        "title": "{}, held-out prompts | pretrained | SFT | PPO",
        "seeds": "median of {} seeds",
        "seed": "seed {}",
        "quality": "true quality of an answer, 0 to 10, sampled / greedy",
        "wins": "wins against SFT, sampled / greedy",
        "kl": "KL to SFT, nats per response",
        "perplexity": "perplexity of pretraining text (SFT raises it, the mix lowers it again)",
    },
    "zh": {
        "title": "{}，留出的提示 | 预训练 | SFT | PPO",
        "seeds": "{} 个随机种子的中位数",
        "seed": "种子 {}",
        "quality": "回答的真实质量，0 到 10，采样 / 贪心",
        "wins": "对 SFT 的胜率，采样 / 贪心",
        "kl": "相对 SFT 的 KL，每个回答，单位 nat",
        "perplexity": "预训练文本的困惑度（SFT 使它升高，混合项又把它降回来）",
    },
}


def summary(language: str = "en") -> str:
    """The table of README.md: medians over the seeds."""
    runs, words = [numbers for _, numbers in of_recipe("tiny")], SUMMARY[language]

    def cell(*names: str, digits: int = 1) -> str:
        return " / ".join(f"{median(value(run, name) for run in runs):.{digits}f}" for name in names)

    def gold(model: str) -> str:
        return cell(f"{model}.gold", f"{model}.gold_greedy")

    which = words["seeds"].format(len(runs)) if len(runs) > 1 else words["seed"].format(runs[0]["seed"])
    wins = f"**{cell('ppo.win_rate', 'ppo.win_rate_greedy', digits=2)}**"
    perplexity = [cell(f"{model}.perplexity", digits=2) for model in ("pretrain", "sft", "ppo")]
    return "\n".join(
        [
            row([words["title"].format(which)]),
            "|---|---|---|---|",
            row([words["quality"], gold("pretrain"), gold("sft"), f"**{gold('ppo')}**"]),
            row([words["wins"], "", "", wins]),
            row([words["kl"], "", "", cell("ppo.kl")]),
            row([words["perplexity"], *perplexity[:2], f"**{perplexity[2]}**"]),
        ]
    )  # fmt: skip


def seconds() -> str:
    """The time of each stage of each run, with its CPU time if it is known, and of all stages."""
    lines = [row(["run", "date, machine", *STAGES, "all"]), "|---" * (len(STAGES) + 3) + "|"]
    for name, run in read(FILE).items():
        times, cpu = run["numbers"]["seconds"], run["numbers"]["cpu_seconds"]
        if len(times) == len(STAGES):
            cells = [f"{times[stage]:.0f}" + (f"/{cpu[stage]:.0f}" if stage in cpu else "") for stage in STAGES]
            minutes, rest = divmod(round(sum(times.values())), 60)
            lines.append(row([name, where({name: run}), *cells, f"{minutes} min {rest} s"]))
    return "\n".join(lines)


# --- other recipes ----------------------------------------------------------------------------------------------------


OTHER = (
    "gold gold_greedy score score_greedy length ended perplexity kl win_rate win_rate_greedy accuracy accuracy_own"
).split()


def other(recipe: str, arguments: bool = False) -> str:
    """What evaluate has measured of a recipe: a row for each metric of OTHER, a column for each model, with intervals.

    A judge that another run trained has a column. `arguments`: also of a run with options on the command line.
    """
    name, run = of_recipe(recipe, arguments)[0]
    models = {model: metrics for model, metrics in run["evaluate"].items() if isinstance(metrics, dict)}
    names = [name for name in OTHER if any(name in metrics for metrics in models.values())]
    lines = [f"{where({name: read(FILE)[name]})}.", "", row(["", *models]), "|---" * (len(models) + 1) + "|"]
    for metric in names:
        lines.append(row([metric, *(_estimate(metrics, metric) for metrics in models.values())]))
    return "\n".join(lines)


def _estimate(metrics: dict[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    text = f"{metrics[name]:.2f}"
    return f"{text} [{metrics[f'{name}_low']:.2f}, {metrics[f'{name}_high']:.2f}]" if f"{name}_low" in metrics else text


def row(cells: list[str]) -> str:
    """A line of a Markdown table."""
    return re.sub(r" +", " ", f"| {' | '.join(cells)} |")


def entries_of(recipe: str) -> Entries:
    return {name: read(FILE)[name] for name, _ in of_recipe(recipe)}
