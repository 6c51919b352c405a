"""What evaluation measured of each model: wins against the SFT model, and what became of the pretrained knowledge."""

from collections.abc import Sequence
from typing import Any

from stages.reporting import drawing
from stages.reporting.content import (
    Block,
    Command,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    estimate,
    is_number,
    number,
)
from stages.reporting.drawing import Bar
from stages.reporting.files import RunFiles

WINS = {
    "win_rate": "sampled",
    "win_rate_greedy": "greedy",
    "ties": "ties, share of prompts",
    "win_rate_length_controlled": "at equal length",
    "judge_win_rate": "by the judge",
    "judge_win_rate_length_controlled": "by the judge, at equal length",
    "judge_ties": "ties of the judge, share",
    "judge_disagreement": "the judge disagrees with itself in the other order, share",
}
SHARES = ("ties", "disagreement")  # in the names of metrics that are shares, not win rates
BASIC = ("gold", "gold_greedy", "perfect", "perfect_greedy", "score", "score_greedy", "kl", "length", "ended")
WIN_LEAD = (
    "The share of held-out prompts for which a model's answer has a higher gold score than that of the SFT model; a tie "
    "counts as half a win. 0.5 means no difference. An interval that contains 0.5 leaves open which one is better."
)
TAX_LEAD = (
    "What a model forgets while it learns to please: perplexity of held-out pretraining text (lower is better) and the "
    "share of facts it still completes (higher is better). The pretraining mix of PPO (γ, ptx_coef) is meant to prevent it."
)


def is_win(name: str) -> bool:
    """Whether a metric belongs to the section on win rates, and is no end of an interval."""
    return name.startswith(("win_rate", "judge", "ties")) and not name.endswith(("_low", "_high"))


def in_words(name: str) -> str:
    """A win metric's name in words, such as "at temperature 0.7" for win_rate_t0.7."""
    base, mark, temperature = name.rpartition("_t")
    if mark and temperature.replace(".", "", 1).isdigit():
        where = f"at temperature {temperature}"
        return where if base == "win_rate" else f"{in_words(base)}, {where}"
    if name not in WINS and name.removesuffix("_greedy") in WINS:
        return f"{WINS[name.removesuffix('_greedy')]}, greedy"
    return WINS.get(name, name.replace("_", " "))


def win_section(files: RunFiles, make: str) -> Section:
    """The section on win rates. `make` is the command that evaluates."""
    result = Section("wins", "Win rates against the SFT model", WIN_LEAD)
    metrics = files.metrics or {}
    models = [model for model in files.models if any(map(is_win, metrics[model]))]
    if not models:
        known = "No model was compared with the SFT model by a gold function"
        result.missing = f"{known if metrics else 'Nothing was evaluated'}: run `{make}`"
    else:
        names = dict.fromkeys(name for model in models for name in metrics[model] if is_win(name))
        rates = [name for name in names if not any(share in name for share in SHARES)]
        bars = [_bar(metrics[m], n, f"{m}, {in_words(n)}") for m in models for n in rates if n in metrics[m]]
        pictures = [_bars("wins", "Win rate against the SFT model", bars, "win rate", 0.5)] if bars else []
        result.blocks.append(Pictures("", pictures))
        rows = [[in_words(name), *(estimate(metrics[model], name) for model in models)] for name in names]
        result.blocks.append(Table("", ["", *models], rows))
    if metrics:
        result.blocks.append(_basics(files))
    if "people" in metrics:
        text = estimate(metrics["people"], "agreement")
        result.blocks.append(Text(f"People who ranked the same answers order two of them alike: {text}."))
    return result


def _basics(files: RunFiles) -> Table:
    """The metrics of every model that are neither win rates nor of pretraining."""
    metrics = files.metrics or {}
    found = dict.fromkeys(
        name for model in files.models for name in metrics[model] if not is_win(name) and not _is_tax(name, files)
    )
    names = [name for name in found if not name.endswith(("_low", "_high"))]
    names.sort(key=lambda name: BASIC.index(name) if name in BASIC else len(BASIC))
    rows = [[name.replace("_", " "), *(estimate(metrics[model], name) for model in files.models)] for name in names]
    return Table("All models on held-out prompts", ["", *files.models], rows)


def _bar(metrics: dict[str, Any], name: str, label: str) -> Bar:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return Bar(label, metrics[name], low if is_number(low) else None, high if is_number(high) else None)


def _bars(name: str, title: str, entries: Sequence[Bar], label: str, reference: float | None = None) -> Picture:
    alt = "; ".join(f"{entry.label}: {number(float(entry.value))}" for entry in entries)
    return drawing.bars(name, title, f"{title}. {alt}", entries, label, reference)


# --- the alignment tax ------------------------------------------------------------------------------------------------


def _is_tax(name: str, files: RunFiles) -> bool:
    return name in ("perplexity", *files.probes)


def tax_section(files: RunFiles, make: str, no_mix: str) -> Section:
    """The section on perplexity and recall. `make` evaluates; `no_mix` makes a policy with γ = 0."""
    result = Section("tax", "The alignment tax", TAX_LEAD)
    metrics = files.metrics or {}
    models = [model for model in files.models if any(_is_tax(name, files) for name in metrics[model])]
    if not models:
        known = "The run has no held-out text and no probes" if metrics else f"Nothing was evaluated: run `{make}`"
        result.missing = known
        return result
    names = [name for name in ("perplexity", *files.probes) if any(name in metrics[model] for model in models)]
    titles = {name: name if name == "perplexity" else f"recall of {name}" for name in names}
    pictures = [
        _bars(f"tax-{i}", titles[name], [_bar(metrics[m], name, m) for m in models if name in metrics[m]], label)
        for i, name in enumerate(names)
        if (label := "lower is better" if name == "perplexity" else "share, higher is better")
    ]
    coefficients = {model: files.coefficient(model) for model in models}
    rows = [[m, number(coefficients[m], 2), *(estimate(metrics[m], name) for name in names)] for m in models]
    result.blocks = [Pictures("", pictures), Table("", ["", "γ", *titles.values()], rows), *_mix(files, no_mix)]
    return result


def _mix(files: RunFiles, no_mix: str) -> list[Block]:
    """Which policies were trained with and without the mix, or how to make one without it."""
    known = {model: value for model in files.models if (value := files.coefficient(model)) is not None}
    without = [model for model, value in known.items() if not value]
    if without and len(without) < len(known):
        mixed = ", ".join(f"{model} (γ = {number(value)})" for model, value in known.items() if value)
        return [Text(f"Without the pretraining mix: {', '.join(without)}. With it: {mixed}.")]
    if not known or without:
        return []
    return [Text("To see what the mix is worth, train a policy without it and make the report again:"), Command(no_mix)]
