"""Comparisons: K completions of each prompt, sampled from the SFT model and ranked by a labeller.

If the labeller is `people`, the rankings are those of `make rank`, and nothing is sampled. If the recipe names files of
comparisons, these are used instead.

    make comparisons
"""

import json
import math
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.labeller import rank
from data.rankings import agreement
from rlhf import InputError
from rlhf.evaluate import ratio_estimate
from rlhf.models import load_policy, max_prompt_length, on_device
from rlhf.rollout import Completion, sample_completions
from rlhf.rows import Row, Tally, plain_text, read_jsonl, read_lines, read_rows, write_rows
from rlhf.run.checkpoint import step_of
from rlhf.scoring import RewardFunction, call_reward_function
from rlhf.tokens import load_tokenizer, prompt_dataset
from stages.common.console import ProgressBar, say, show_output
from stages.common.needs import sampling_needs, say_needs, scorers
from stages.common.options import PEOPLE, ComparisonsOptions
from stages.common.people import mix, read_people
from stages.common.resume import Saver
from stages.common.rewards import load_reward
from stages.common.run import INPUT
from stages.common.stage import Stage, main

SAMPLED = "sampled.jsonl"


def work(options: ComparisonsOptions, stage: Stage) -> dict[str, Any]:
    """Writes train.jsonl and test.jsonl; returns their numbers of rows for the record."""
    if options.labeller == PEOPLE:
        return from_people(options, stage)
    ready_made = [stage.input(f"{INPUT}data/{file}.jsonl") for file in ("comparisons", "comparisons_test")]
    if ready_made[0].is_file():
        for path, file in zip(ready_made, ("train.jsonl", "test.jsonl"), strict=True):
            shutil.copy(path, stage.partial / file)
        say("comparisons from the recipe's files: nothing to sample")
        return {}
    if options.labeller is None:
        raise InputError(
            "no labeller: name a function or a model that scores completions, or files of comparisons under data"
        )

    source = stage.model(options.model, "sft")
    tokenizer = load_tokenizer(source)
    policy = on_device(load_policy(source, tokenizer))
    prompts = {
        "train": _prompts(policy, tokenizer, stage, "prompts", options.count, options),
        "test": _prompts(policy, tokenizer, stage, "prompts_test", options.test_count, options),
    }
    label = load_reward(options.labeller, stage, [row for rows, _ in prompts.values() for row in rows])
    longest = max((part for _, part in prompts.values()), key=len)
    together = min(options.batch_size, options.completions * len(longest))
    say_needs(sampling_needs([policy], scorers(label), longest, options.response_length, together), "batch_size")
    sampled = sample(policy, tokenizer, {part: ids for part, (_, ids) in prompts.items()}, options, stage)
    for part, (rows, _) in prompts.items():
        rng = random.Random(f"labeller {part} {options.seed}")
        write_rows(stage.partial / f"{part}.jsonl", compare(rows, sampled[part], label, options, rng))
    return {"rows": {part: len(rows) for part, (rows, _) in prompts.items()}}


def from_people(options: ComparisonsOptions, stage: Stage) -> dict[str, Any]:
    """Writes the rankings of `make rank`, mixed with older comparisons to train on; returns counts for the record."""
    people = read_people(options, stage.input)
    say(str(people))
    metrics: dict[str, float] = {}
    # the same prompt and completions are the same item, in whichever file they are
    items = [{**row, "id": json.dumps([row["prompt"], row["completions"]])} for row in people.decisions]
    alike, compared = agreement(items)
    if compared:
        agreed = ratio_estimate(alike, compared)
        say(f"agreement {agreed} of people who ranked the same answers, over {sum(compared):,} pairs")
        metrics = agreed.named("agreement")
    train = people.train
    if options.old:
        train = mix(train, people.test, stage.rows(options.old, ""), options.old_weight, options.seed)
    older = f" and {len(train) - len(people.train):,} older comparisons" if options.old else ""
    say(f"{len(people.train):,} rankings{older} to train on, {len(people.test):,} rankings of other prompts to test on")
    write_rows(stage.partial / "train.jsonl", train)
    write_rows(stage.partial / "test.jsonl", people.test)
    rows = {"train": len(train), "test": len(people.test), "used": people.tally.used, "unused": people.counts()}
    return {"rows": rows, "metrics": metrics}


def _prompts(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stage: Stage,
    file: str,
    count: int,
    options: ComparisonsOptions,
) -> tuple[list[Row], list[list[int]]]:
    """The first `count` prompts of a file as rows and token ids, without those that leave no room for a response.

    None if `count` is 0, or if the data has no held-out prompts.
    """
    path = stage.rows(None, f"{file}.jsonl")
    if count == 0 or (file == "prompts_test" and not any(read_lines(path))):
        return [], []
    rows = read_rows(path, "prompts")[:count]
    tally = Tally(used=len(rows))
    dataset = prompt_dataset(rows, tokenizer, max_prompt_length(policy, options.response_length), tally)
    say(f"{file}: {tally}; {options.completions} completions each, plus {options.swapped} taken from other prompts")
    return [rows[i] for i in dataset["row"]], dataset["input_ids"]


def sample(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: dict[str, list[list[int]]],
    options: ComparisonsOptions,
    stage: Stage,
) -> dict[str, list[list[Completion]]]:
    """The K completions of each prompt, for each part (train, test). Saves checkpoints and resumes from them."""
    k = options.completions
    completions: dict[str, list[Completion | None]] = {part: [None] * (k * len(ids)) for part, ids in prompts.items()}
    saver, bar = Saver(stage, options), ProgressBar(sum(map(len, completions.values())))
    with saver.resuming() as checkpoint:
        resumed = step_of(checkpoint) if checkpoint else 0
        for _, row in read_jsonl(checkpoint / SAMPLED) if checkpoint else ():
            completions[row["part"]][row["number"]] = Completion(**row["completion"])

    def progress(count: int) -> None:
        bar.update(count)
        saver.after_step(bar.done)
        if bar.done > resumed and saver.save_now:
            saver.save(bar.done, lambda folder: _write_sampled(folder, completions))
        if saver.stopping:
            saver.stop(max(bar.done, resumed))

    result = {}
    with saver:
        for number, (part, ids) in enumerate(prompts.items()):
            result[part] = sample_completions(
                policy,
                tokenizer,
                [prompt for prompt in ids for _ in range(k)],
                response_length=options.response_length,
                temperature=options.temperature,
                seed=1000 * options.seed + number,
                batch_size=options.batch_size,
                completions=completions[part],
                progress=progress,
            )
    bar.close()
    return {part: [flat[i : i + k] for i in range(0, len(flat), k)] for part, flat in result.items()}


def _write_sampled(folder: Path, completions: dict[str, list[Completion | None]]) -> None:
    rows = [
        {"part": part, "number": number, "completion": asdict(completion)}
        for part, sampled in completions.items()
        for number, completion in enumerate(sampled)
        if completion
    ]
    write_rows(folder / SAMPLED, rows)


def compare(
    rows: list[Row],
    sampled: list[list[Completion]],
    label: RewardFunction,
    options: ComparisonsOptions,
    rng: random.Random,
) -> list[Row]:
    """A ranking for each prompt, of its completions and of `swapped` completions of other prompts."""
    compared = []
    for number, (row, answers) in enumerate(zip(rows, sampled, strict=True)):
        others = [i for i in range(len(rows)) if i != number]
        swapped = [rng.choice(sampled[i]) for i in rng.sample(others, min(options.swapped, len(others)))]
        completions = answers + swapped
        texts, finished = [c.text for c in completions], [c.finished for c in completions]
        quality = call_reward_function(label, [row] * len(completions), texts, finished, show=show_output)
        if not all(map(math.isfinite, quality)):
            raise InputError(f"{options.labeller} returns no number for an answer to {plain_text(row['prompt'])!r}")
        ranks = rank(texts, quality, options.noise, options.tie_margin, rng)
        is_swapped = [False] * len(answers) + [True] * len(swapped)
        columns = {"completions": texts, "ranks": ranks, "ended": finished, "quality": quality, "swapped": is_swapped}
        compared.append({**row, **columns})
    return compared


if __name__ == "__main__":
    main("comparisons", work)
