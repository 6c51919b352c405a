"""Benchmarks of reward models: files in the row formats of RewardBench and RewardBench 2, and their metrics.

    {"prompt", "chosen", "rejected", "subset"}              RewardBench: a better and a worse completion
    the same with lists of completions, "num_correct", ...  RewardBench 2

Texts are strings or chat messages. A row without `subset` belongs to a subset with the name of the file.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.files import read_path
from rlhf import InputError
from rlhf.rows import Row, Tally, Text, is_message, valid_rows
from rlhf.scoring.benchmarks import Item, benchmark_metrics, is_ties
from stages.common.reward_scores import RewardScores
from stages.common.stage import Stage

COUNTS = {"num_correct": "chosen", "num_incorrect": "rejected"}  # columns of RewardBench 2 -> what they count


def read_benchmarks(files: Sequence[str], reward: RewardScores | None, stage: Stage) -> dict[str, list[Item]]:
    """The rows of each benchmark file.

    Raises InputError, with file and line, for a row that is not one of a benchmark, or if there is no reward model.
    """
    if files and reward is None:
        raise InputError("benchmarks measure a reward model, and the run has none: name one with --reward_model")
    return {file: read_benchmark(stage.input(file)) for file in files}


def measure_benchmarks(benchmarks: dict[str, list[Item]], reward: RewardScores) -> dict[str, Any]:
    """The metrics of the reward model on each file, see `rlhf.scoring.benchmarks.benchmark_metrics`."""
    return {
        file: {"model": reward.name, **benchmark_metrics(items, scored(items, reward))}
        for file, items in benchmarks.items()
    }


def scored(items: Sequence[Item], reward: RewardScores) -> list[list[float]]:
    """The scores of the completions of each item."""
    rows: list[Row] = [{"prompt": item.prompt} for item in items for _ in item.completions]
    completions = [completion for item in items for completion in item.completions]
    scores = reward.of_texts(rows, completions, [True] * len(rows))
    if not all(map(math.isfinite, scores)):
        raise InputError(f"the reward model {reward.name} gives scores that are not finite; train it again")
    remaining = iter(scores)
    return [[next(remaining) for _ in item.completions] for item in items]


def read_benchmark(path: Path) -> list[Item]:
    """The rows of a file in any format of `data.files`."""
    items: list[Item] = []
    ids: dict[str, str] = {}
    for where, row in read_path(path, "line"):
        item = benchmark_item(row, where, path.name.partition(".")[0])
        if items and item.listed != items[0].listed:
            raise InputError(f"{where}: some rows have lists of completions, and some have not; split the file")
        if is_ties(item) and (first := ids.setdefault(item.id, where)) != where:
            raise InputError(f"{where}: the id {item.id} is also that of {first}; in Ties each id occurs once")
        items.append(item)
    if not items:
        raise InputError(f"{path}: no rows")
    kinds = {kind: {name.partition(":")[2] for name in ids if name.startswith(kind)} for kind in ("ref:", "tied:")}
    if ids and not kinds["ref:"] & kinds["tied:"]:
        raise InputError(f"{path}: in the subset Ties no number has both a row ref:NUMBER and a row tied:NUMBER")
    return items


def benchmark_item(row: Any, where: str, default_subset: str) -> Item:
    """The row in its checked form. Raises InputError, which begins with `where`, if it is not one of a benchmark."""
    if not isinstance(row, dict):
        raise InputError(f"{where}: a row is an object with columns, not {type(row).__name__}")
    for column in ("prompt", "chosen", "rejected"):
        if row.get(column) in (None, []):
            raise InputError(f'{where}: no "{column}"; the row has {", ".join(row) or "nothing"}')
    subset = row.get("subset", default_subset)
    if not isinstance(subset, str) or not subset.strip():
        raise InputError(f'{where}: "subset" is {subset!r:.40}; it must be a name')
    listed = {column: is_listed(row[column]) for column in ("chosen", "rejected")}
    if listed["chosen"] != listed["rejected"]:
        raise InputError(f'{where}: "chosen" and "rejected" must both be one completion, or both lists of completions')
    groups = {column: row[column] if listed[column] else [row[column]] for column in listed}
    for count, column in COUNTS.items():
        if listed[column] and row.get(count, len(groups[column])) != len(groups[column]):
            raise InputError(f'{where}: {count} is {row[count]!r:.20}, but "{column}" has {len(groups[column])}')
    prompt, completions = checked_texts(row["prompt"], [*groups["chosen"], *groups["rejected"]], where)
    item = Item(subset, prompt, completions, len(groups["chosen"]), listed["chosen"], str(row.get("id", "")))
    if is_ties(item) and not re.fullmatch(r"(ref|tied):\d+", item.id):
        raise InputError(f'{where}: "id" is {item.id!r:.40}; in the subset Ties it must be ref:NUMBER or tied:NUMBER')
    if is_ties(item) and item.id.startswith("tied:") and item.chosen < 2:
        raise InputError(f'{where}: a row tied:NUMBER needs at least two completions in "chosen"')
    return item


def is_listed(value: Any) -> bool:
    """Whether a column holds a list of completions, and not one completion, which may be a list of messages."""
    return isinstance(value, list) and bool(value) and not all(map(is_message, value))


def checked_texts(prompt: Any, completions: Sequence[Any], where: str) -> tuple[Text, list[Text]]:
    """The prompt, and the completions without the prompt's messages if they repeat them. A completion may be empty.

    Raises InputError for what is neither text nor chat messages, and for a completion of several messages.
    """
    beginning = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    checked = _checked({"prompt": prompt}, "prompts", where)["prompt"]
    texts: list[Text] = []
    for completion in completions:
        if isinstance(completion, list) and completion[: len(beginning)] == beginning:
            completion = completion[len(beginning) :]
        if not (isinstance(completion, str) and not completion.strip()):
            completion = _checked({"prompt": checked, "completion": completion}, "demonstrations", where)["completion"]
        if isinstance(completion, list):
            if len(completion) != 1 or completion[0]["role"] != "assistant":
                raise InputError(f"{where}: a completion is a text, a message of the assistant, or the prompt with one")
            completion = completion[0]["content"]
        texts.append(completion)
    return checked, texts


def _checked(row: Row, kind: str, where: str) -> Row:
    """The checked row. Raises InputError where rows of this kind are dropped: a benchmark is measured whole."""
    tally = Tally()
    for checked in valid_rows([(where, row)], kind, tally):
        return checked
    raise InputError(f"{where}: {', '.join(tally.dropped)}; correct the row, or remove it")
