"""Rows for all other stages, from the embedded world or from files and hub data sets, with a part kept for the test."""

import json
import random
from dataclasses import dataclass
from itertools import islice

from data import world
from data.adapters import ANSWERS, adapt
from data.sources import read_source
from rlhf.config import option
from rlhf.data import Row, Tally, checked
from rlhf.errors import InputError
from stages.cli import Stage, main, say, write_rows
from stages.options import StageOptions

KINDS = ("text", "demonstrations", "comparisons", "prompts")
FEW = 5  # of fewer prompts none is kept for the test unless test_share says so


@dataclass
class Options(StageOptions):
    world: bool = option(False, "make text, demonstrations and prompts of the embedded world")
    world_documents: int = option(50_000, "pretraining documents to make of it")
    world_demonstrations: int = option(6_000, "demonstrations to make of it")
    world_prompts: int = option(6_000, "prompts to make of it")

    folder: str | None = option(None, "where the files below are looked for; the current folder if not given")
    text: list[str] = option([], "files or hub data sets of plain text, for pretraining")
    demonstrations: list[str] = option([], "the same of prompts with completions, for SFT")
    comparisons: list[str] = option(
        [], "the same of ranked or paired completions; if not given, `make comparisons` samples them"
    )
    prompts: list[str] = option(
        [], "the same of prompts, for PPO; the prompts of demonstrations and comparisons if not given"
    )
    sample_by: str = option("paragraph", "what a document of a .txt file is: line, paragraph or document")
    limit: int | None = option(None, "use so many rows of a file or data set at most")

    test_share: float = option(
        0.1,
        "share of the rows of files that is kept for the test, by prompt: what answers one of these is in no training",
    )
    test_rows: int = option(400, "prompts, or texts, kept for the test at most")


def work(options: Options, stage: Stage) -> dict:
    summary, found = {}, {}
    for kind in KINDS:
        if sources := getattr(options, kind):
            tally = Tally()
            found[kind] = list(checked(_raw_rows(sources, kind, options, tally), kind, tally))
            if not found[kind]:
                raise InputError(f"no usable {kind} in {', '.join(sources)}: {tally}")
            say("", f"{kind:<15} {tally}")
            summary[kind] = tally.as_dict()
    rows = (world_rows(options) if options.world else {}) | split(found, options)
    if "prompts" not in rows:
        rows["prompts"], rows["prompts_test"] = (_prompts_of(rows, part) for part in ("", "_test"))
    for name, part in rows.items():
        write_rows(stage.folder / f"{name}.jsonl", part)
    written = {name: len(part) for name, part in rows.items()}
    say("", ", ".join(f"{count:,} {name}" for name, count in written.items()))
    return {"sources": summary, "rows": written}


def world_rows(options: Options) -> dict[str, list[Row]]:
    """Everything the embedded world has to offer; no document for the test is one of those for training."""
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


def split(rows: dict[str, list[Row]], options: Options) -> dict[str, list[Row]]:
    """The rows of each kind for training, and under <kind>_test those for the test.

    Each kind gives a share of its prompts, or texts, to the test, and a prompt that is there is in no kind's training.
    """
    keys = {kind: [_key(row) for row in some] for kind, some in rows.items()}
    order = sorted(set().union(*keys.values()))
    random.Random(f"split {options.seed}").shuffle(order)
    test: set[str] = set()
    for some in map(set, keys.values()):
        share = max(round(options.test_share * len(some)), 1 if len(some) >= FEW and options.test_share else 0)
        test |= set([key for key in order if key in some][: min(share, options.test_rows)])
    found = {
        kind + ending: [row for row, key in zip(rows[kind], keys[kind], strict=True) if (key in test) is side]
        for kind in rows
        for ending, side in (("", False), ("_test", True))
    }
    for kind in rows:
        if not found[kind]:
            raise InputError(
                f"all {kind} have a prompt that is kept for the test: set test_share: 0, or name more of them"
            )
    return found


def _key(row: Row) -> str:
    """The same for rows with the same prompt, or the same text."""
    return json.dumps([(column, row[column]) for column in ("prompt", "text", "messages") if column in row][:1])


def _raw_rows(sources: list[str], kind: str, options: Options, tally: Tally):
    for source in sources:
        raw_rows = islice(read_source(source, options.folder, options.sample_by), options.limit)
        yield from ((where, row) for where, raw in raw_rows for row in adapt(raw, kind, tally, where))


def _prompts_of(rows: dict[str, list[Row]], part: str) -> list[Row]:
    """The distinct prompts of demonstrations and comparisons, with what else is known of them."""
    found: dict[str, Row] = {}
    for row in (row for kind in ("demonstrations", "comparisons") for row in rows.get(kind + part, [])):
        ranks = row.get("ranks", [])  # beside which there may be more of each completion
        others = {
            key: value
            for key, value in row.items()
            if key not in ANSWERS and not (ranks and isinstance(value, list) and len(value) == len(ranks))
        }
        found.setdefault(json.dumps(row["prompt"]), {**others, "prompt": row["prompt"]})
    return list(found.values())


if __name__ == "__main__":
    main("data", Options, work)
