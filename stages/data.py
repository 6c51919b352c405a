"""Rows for all other stages, from the embedded world or from files and hub data sets, with a part kept for the test."""

import json
import random
from dataclasses import dataclass
from itertools import islice

from data import world
from data.adapters import adapt
from data.sources import read_source
from rlhf.config import option
from rlhf.data import Row, Tally, checked
from rlhf.errors import InputError
from stages.cli import Stage, main, say, write_rows
from stages.options import StageOptions

KINDS = ("text", "demonstrations", "comparisons", "prompts")


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
    limit: int | None = option(None, "use so many rows of a file at most")

    test_share: float = option(0.1, "share of the rows of files that is kept for the test, by prompt")
    test_rows: int = option(400, "rows kept for the test, at most")


def work(options: Options, stage: Stage) -> dict:
    summary = {}
    rows = world_rows(options) if options.world else {}
    for kind in KINDS:
        if sources := getattr(options, kind):
            tally = Tally()
            found = list(checked(_raw_rows(sources, kind, options, tally), kind, tally))
            if not found:
                raise InputError(f"no usable {kind} in {', '.join(sources)}: {tally}")
            rows[kind], rows[f"{kind}_test"] = split(found, kind, options)
            say("", f"{kind:<15} {tally}")
            summary[kind] = tally.as_dict()
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


def split(rows: list[Row], kind: str, options: Options) -> tuple[list[Row], list[Row]]:
    """Rows for training and for the test; rows with the same prompt, or the same text, fall on one side."""
    keys = [json.dumps(row.get("prompt") or row.get("text") or row.get("messages")) for row in rows]
    distinct = sorted(set(keys))
    random.Random(f"split {kind} {options.seed}").shuffle(distinct)
    test = set(distinct[: min(round(options.test_share * len(distinct)), options.test_rows)])
    sides = [[row for row, key in zip(rows, keys, strict=True) if (key in test) is side] for side in (False, True)]
    return sides[0], sides[1]


def _raw_rows(sources: list[str], kind: str, options: Options, tally: Tally):
    for source in sources:
        raw_rows = islice(read_source(source, options.folder, options.sample_by), options.limit)
        yield from ((where, row) for where, raw in raw_rows for row in adapt(raw, kind, tally, where))


def _prompts_of(rows: dict[str, list[Row]], part: str) -> list[Row]:
    """The distinct prompts of demonstrations and comparisons."""
    prompts = [row["prompt"] for kind in ("demonstrations", "comparisons") for row in rows.get(kind + part, [])]
    return [{"prompt": prompt} for prompt in {json.dumps(prompt): prompt for prompt in prompts}.values()]


if __name__ == "__main__":
    main("data", Options, work)
