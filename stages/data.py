"""Rows for all other stages, from the embedded world or from files and hub data sets, split into training and test.

make data
"""

import json
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from data import world
from data.columns import Source
from data.shapes import ANSWERS
from data.sources import path_of, read_source
from rlhf import InputError
from rlhf.rows import Row, Tally, valid_rows, without_weights, write_rows
from stages.common.console import say
from stages.common.options import DataOptions
from stages.common.parsing import load_function
from stages.common.stage import Stage, main

KINDS = ("text", "demonstrations", "comparisons", "prompts")
FEW = 5  # with at least this many prompts, at least one is held out for the test


def work(options: DataOptions, stage: Stage) -> dict[str, Any]:
    """Writes a JSON Lines file for each kind of row; returns the row counts for the record."""
    summary, loaded = {}, {}
    for kind in KINDS:
        if sources := getattr(options, kind):
            for source in sources:
                stage.input(str(path_of(Source.parse(source).path, options.folder)))
            tally = Tally()
            loaded[kind] = list(valid_rows(_raw_rows(sources, kind, options, tally), kind, tally))
            if not loaded[kind]:
                raise InputError(f"no usable {kind} in {', '.join(sources)}: {tally}")
            say(f"{kind:<15} {tally}")
            summary[kind] = tally.as_dict()
    rows = (world_rows(options) if options.world else {}) | split(loaded, options)
    if "prompts" not in rows:
        rows["prompts"], rows["prompts_test"] = (_prompts_of(rows, part) for part in ("", "_test"))
    for name, part in rows.items():
        write_rows(stage.partial / f"{name}.jsonl", part)
    counts = {name: len(part) for name, part in rows.items()}
    say("rows: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    return {"sources": summary, "rows": counts}


def world_rows(options: DataOptions) -> dict[str, list[Row]]:
    """The rows of the embedded world, by file name. No test document occurs in the training text."""
    seed, tests = options.seed, options.test_rows
    text = list(world.text(options.world_documents, seed))
    known = {row["text"] for row in text}
    return {
        "text": text,
        "text_test": [row for row in world.text(2 * tests, seed, test=True) if row["text"] not in known],
        "demonstrations": list(world.demonstrations(options.world_demonstrations, seed)),
        "prompts": list(world.prompts(options.world_prompts, seed)),
        "prompts_test": list(world.prompts(tests, seed, test=True)),
        "probes": list(world.probes()),
    }


def split(rows: dict[str, list[Row]], options: DataOptions) -> dict[str, list[Row]]:
    """The rows of each kind, split into <kind> for training and <kind>_test.

    A share of each kind's prompts, or texts, is held out. A row of any kind with a held-out prompt is a test row.
    Raises InputError if no training row of a kind is left.
    """
    keys = {kind: [_key(row) for row in kind_rows] for kind, kind_rows in rows.items()}
    order = sorted(set().union(*keys.values()))
    random.Random(f"split {options.seed}").shuffle(order)
    test: set[str] = set()
    for kind_keys in map(set, keys.values()):
        share = max(
            round(options.test_share * len(kind_keys)), 1 if len(kind_keys) >= FEW and options.test_share else 0
        )
        test |= set([key for key in order if key in kind_keys][: min(share, options.test_rows)])
    parts = {
        kind + suffix: [row for row, key in zip(rows[kind], keys[kind], strict=True) if (key in test) is held_out]
        for kind in rows
        for suffix, held_out in (("", False), ("_test", True))
    }
    for kind in rows:
        if not parts[kind]:
            raise InputError(
                f"all prompts of the {kind} are held out for the test: set test_share: 0, or provide more rows"
            )
    return parts


def _key(row: Row) -> str:
    """A key that is equal for rows with the same prompt or text, whatever the weights of its replies."""
    columns = [column for column in ("prompt", "text", "messages") if column in row]
    return json.dumps([(column, without_weights(row[column])) for column in columns][:1])


def _raw_rows(sources: list[str], kind: str, options: DataOptions, tally: Tally) -> Iterator[tuple[str, Any]]:
    for source in map(Source.parse, sources):
        raw_rows = islice(read_source(source.path, options.folder, options.sample_by), options.limit)
        yield from source.rows(raw_rows, kind, tally, load_function)


def _prompts_of(rows: dict[str, list[Row]], part: str) -> list[Row]:
    """The distinct prompts of demonstrations and comparisons, with the columns that describe the prompt."""
    prompts: dict[str, Row] = {}
    for row in (row for kind in ("demonstrations", "comparisons") for row in rows.get(kind + part, [])):
        ranks = row.get("ranks", [])
        # a list as long as the ranking describes its completions, not the prompt
        extra = {
            column: value
            for column, value in row.items()
            if column not in ANSWERS and not (ranks and isinstance(value, list) and len(value) == len(ranks))
        }
        prompt = without_weights(row["prompt"])
        prompts.setdefault(json.dumps(prompt), {**extra, "prompt": prompt})
    return list(prompts.values())


if __name__ == "__main__":
    main("data", work)
