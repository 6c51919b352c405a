"""Rows for all other stages, from the embedded world or from files and hub data sets, split into training and test.

make data
"""

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from data import world
from data.columns import Source
from data.preview import Statistics, as_lines
from data.shapes import ANSWERS
from data.sources import path_of, read_source
from data.split import Split
from rlhf import InputError
from rlhf.escape import printable
from rlhf.option import did_you_mean
from rlhf.rows import Row, Tally, read_jsonl, valid_rows, without_weights, write_rows
from stages.common.console import count_aloud, say
from stages.common.options import DataOptions
from stages.common.parsing import load_function
from stages.common.stage import Stage, main

KINDS = ("text", "demonstrations", "comparisons", "prompts")
PARTS = ("", "_test", "_validation")
PREVIEW = "preview.txt"  # what make prints if the rows are up to date


def work(options: DataOptions, stage: Stage) -> dict[str, Any]:
    """Writes a JSON Lines file for each kind of row; returns the row counts for the record."""
    kinds = [kind for kind in KINDS if getattr(options, kind)]
    counts: dict[str, int] = {}
    for name, rows in world_rows(options) if options.world else ():
        if name.partition("_")[0] not in kinds:
            preview = options.preview if name in KINDS else 0
            counts[name] = write(stage.partial / f"{name}.jsonl", rows, preview)
    split = Split(stage.partial)
    summary = {kind: read(kind, split, options, stage) for kind in kinds}
    split.divide(options.test_share, options.test_rows, options.seed, options.validation_rows)
    parts = PARTS if options.validation_rows else PARTS[:2]
    for kind in kinds:
        names = [f"{kind}{part}" for part in (PARTS[:2] if kind == "text" else parts)]
        written = split.write(kind, [stage.partial / f"{name}.jsonl" for name in names])
        counts.update(zip(names, written, strict=True))
        if not counts[kind]:
            raise InputError(
                f"all prompts of the {kind} are held out for the test: set test_share: 0, or provide more rows"
            )
    if "prompts" not in counts:
        for part in parts:
            rows = split.distinct(_prompts_in(stage.partial, part))
            counts[f"prompts{part}"] = write(stage.partial / f"prompts{part}.jsonl", rows)
    split.close()
    say("rows: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    return {"sources": summary, "rows": counts}


def read(kind: str, split: Split, options: DataOptions, stage: Stage) -> dict[str, Any]:
    """Reads the sources of a kind, and prints what the rows look like; returns the counts of used and dropped rows."""
    sources = getattr(options, kind)
    for source in sources:
        stage.input(str(path_of(Source.parse(source).name_in(options.folder), options.folder)))
    tally, statistics = Tally(), Statistics()
    valid = valid_rows(_raw_rows(sources, kind, options, tally), kind, tally)
    if options.rendered:
        valid = ({**row, "rendered": True} for row in valid)
    rows = statistics.count(count_aloud(valid, kind))
    first = list(islice(rows, options.preview))
    split.add(kind, chain(first, rows))
    if not tally.used:
        raise InputError(f"no usable {kind} in {', '.join(sources)}: {tally}")
    show(stage.partial, kind, tally, statistics, first)
    return tally.as_dict()


def write(path: Path, rows: Iterable[Row], preview: int = 0) -> int:
    """Writes the rows; returns their number. If `preview` is above 0, prints what they look like."""
    tally, statistics = Tally(), Statistics()
    rows = statistics.count(tally.count(count_aloud(rows, path.stem)))
    first = list(islice(rows, preview))
    write_rows(path, chain(first, rows))
    if first:
        show(path.parent, path.stem, tally, statistics, first)
    return tally.used


def show(folder: Path, kind: str, tally: Tally, statistics: Statistics, first: list[Row]) -> None:
    """Prints the numbers of rows and of characters, and some rows as text; writes them to PREVIEW as well."""
    lines = [f"{kind}: {tally}; {statistics}", *(f"  {line}" for row in first for line in as_lines(row))]
    with open(folder / PREVIEW, "a", encoding="utf-8") as file:
        for line in lines:
            say(line)
            file.write(printable(line) + "\n")


def world_rows(options: DataOptions) -> Iterator[tuple[str, Iterable[Row]]]:
    """(file name, rows) of the embedded world. No test document occurs in the training text."""
    seed, tests, tasks = options.seed, options.test_rows, options.world_tasks
    for name in tasks:
        if name not in world.TASKS:
            raise InputError(
                f"world_tasks: the world has no task {name!r}{did_you_mean(name, world.TASKS)}; it has "
                + ", ".join(world.TASKS)
            )
    test_text = list(world.text(2 * tests, seed, test=True, task_names=tasks))
    unseen = {row["text"] for row in test_text}

    def training_text() -> Iterator[Row]:
        for row in world.text(options.world_documents, seed, task_names=tasks):
            unseen.discard(row["text"])
            yield row

    yield "text", training_text()
    yield "text_test", (row for row in test_text if row["text"] in unseen)
    yield "demonstrations", world.demonstrations(options.world_demonstrations, seed, tasks)
    yield "prompts", world.prompts(options.world_prompts, seed, task_names=tasks)
    yield "prompts_test", world.prompts(tests, seed, test=True, task_names=tasks)
    if options.validation_rows:
        yield "prompts_validation", validation_prompts(options)
    yield "probes", world.probes()


def validation_prompts(options: DataOptions) -> Iterator[Row]:
    """Held-out prompts of the world that are not in its test; fewer than asked for if the world has no more."""
    count, seed, tasks = options.validation_rows, options.seed, options.world_tasks
    known = {row["prompt"] for row in world.prompts(options.test_rows, seed, test=True, task_names=tasks)}
    drawn = world.prompts(20 * count, seed, test=True, task_names=tasks, stream="validation")
    return islice((row for row in drawn if row["prompt"] not in known), count)


def _raw_rows(sources: list[str], kind: str, options: DataOptions, tally: Tally) -> Iterator[tuple[str, Any]]:
    for source in map(Source.parse, sources):
        raw_rows = islice(read_source(source.name_in(options.folder), options.folder, options.sample_by), options.limit)
        yield from source.rows(raw_rows, kind, tally, load_function)


def _prompts_in(folder: Path, part: str) -> Iterator[tuple[str, Row]]:
    """(prompt as a key, row) of demonstrations and comparisons, with the columns that describe the prompt."""
    for path in (folder / f"{kind}{part}.jsonl" for kind in ("demonstrations", "comparisons")):
        for _, row in read_jsonl(path) if path.is_file() else ():
            ranks, prompt = row.get("ranks", []), without_weights(row["prompt"])
            # a list as long as the ranking describes its completions, not the prompt
            extra = {
                column: value
                for column, value in row.items()
                if column not in ANSWERS and not (ranks and isinstance(value, list) and len(value) == len(ranks))
            }
            yield json.dumps(prompt), {**extra, "prompt": prompt}


if __name__ == "__main__":
    main("data", work)
