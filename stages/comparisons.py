"""K completions to each prompt from the SFT model, ranked by a labeller: what the reward model learns from.

Where the recipe names comparisons that people made, those are passed on instead.
"""

import math
import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from data.labeller import rank
from rlhf.checkpoint import step_of
from rlhf.config import option
from rlhf.data import Row, Tally, prompt_dataset, read_jsonl, read_rows, words_of
from rlhf.errors import InputError
from rlhf.models import device, load_policy, load_tokenizer, room_for_prompt
from rlhf.rollout import Completion, complete
from rlhf.scoring import TextFunction, load_function, score_texts
from stages.cli import Stage, main, say, write_rows
from stages.options import SavingOptions
from stages.progress import ProgressBar
from stages.saving import Saver

SAMPLED = "sampled.jsonl"


@dataclass
class Options(SavingOptions):
    model: str | None = option(None, "model to sample from; the result of `make sft` if not given")
    labeller: str | None = option(
        None, "who knows good from bad: a Python function, module:function, that returns numbers"
    )
    noise: float = option(
        1.5, "the labeller prefers the better of two with probability sigmoid(difference / noise); 0 for no noise"
    )
    tie_margin: float = option(0.0, "perceived differences up to this are ties")
    count: int = option(1800, "prompts whose completions are compared for training")
    test_count: int = option(300, "the same for the test of the reward model")
    completions: int = option(4, "K: completions sampled for each prompt (InstructGPT: 4 to 9)")
    swapped: int = option(
        1, "completions of other prompts added to each, so that the reward model learns what is beside the point"
    )
    temperature: float = option(1.0, "sampling temperature")
    response_length: int = option(64, "tokens after which a completion is cut off")
    batch_size: int = option(256, "completions sampled at a time")


def work(options: Options, stage: Stage) -> dict:
    human = stage.run / "data" / "comparisons.jsonl"
    if human.is_file():
        shutil.copy(human, stage.folder / "train.jsonl")
        shutil.copy(human.with_name("comparisons_test.jsonl"), stage.folder / "test.jsonl")
        say("", "the recipe names comparisons made by people: nothing to sample")
        return {}
    if options.labeller is None:
        raise InputError("no labeller: name a function that tells good from bad, or comparisons made by people")
    if options.completions + options.swapped < 2:
        raise InputError("a comparison needs two completions at least: raise completions")

    label = load_function(options.labeller)
    source = stage.model(options.model, "sft")
    tokenizer = load_tokenizer(source)
    policy = load_policy(source, tokenizer).to(device())
    prompts = {}
    for part, file, count in (("train", "prompts", options.count), ("test", "prompts_test", options.test_count)):
        rows = read_rows(stage.rows(None, f"{file}.jsonl"), "prompts")[:count]
        tally = Tally(used=len(rows))
        dataset = prompt_dataset(rows, tokenizer, room_for_prompt(policy, options.response_length), tally)
        prompts[part] = [rows[i] for i in dataset["row"]], dataset["input_ids"]
        say("", f"{part}: {tally}, {options.completions} completions each, {options.swapped} of another prompt")

    sampled = sample(policy, tokenizer, {part: ids for part, (_, ids) in prompts.items()}, options, stage)
    for part, (rows, _) in prompts.items():
        compared = compare(rows, sampled[part], label, options, random.Random(f"labeller {part} {options.seed}"))
        write_rows(stage.folder / f"{part}.jsonl", compared)
    return {"rows": {part: len(rows) for part, (rows, _) in prompts.items()}}


def sample(policy, tokenizer, prompts: dict[str, list], options: Options, stage: Stage) -> dict[str, list]:
    """For each part the K completions of each prompt, saved now and then."""
    found = {part: [None] * (options.completions * len(ids)) for part, ids in prompts.items()}
    saver, bar = Saver(stage, options), ProgressBar(sum(map(len, found.values())))
    with saver.going_on() as checkpoint:
        begun = step_of(checkpoint) if checkpoint else 0
        for _, row in read_jsonl(checkpoint / SAMPLED) if checkpoint else ():
            found[row["part"]][row["number"]] = Completion(**row["completion"])

    def save(folder: Path) -> None:
        known = [(part, number, c) for part in found for number, c in enumerate(found[part]) if c]
        rows = [{"part": part, "number": number, "completion": asdict(c)} for part, number, c in known]
        write_rows(folder / SAMPLED, rows)

    def progress(count: int) -> None:
        bar.update(count)
        if bar.done > begun and (saver.asked_to_stop or saver.due(bar.done)):
            saver.save(bar.done, save)
        if saver.asked_to_stop:
            saver.stop(max(bar.done, begun))

    with saver:
        for number, (part, ids) in enumerate(prompts.items()):
            complete(
                policy,
                tokenizer,
                [prompt for prompt in ids for _ in range(options.completions)],
                response_length=options.response_length,
                temperature=options.temperature,
                seed=1000 * options.seed + number,
                batch_size=options.batch_size,
                completions=found[part],
                progress=progress,
            )
    bar.close()
    k = options.completions
    return {part: [every[i : i + k] for i in range(0, len(every), k)] for part, every in found.items()}


def compare(
    rows: list[Row],
    sampled: list[list[Completion]],
    label: TextFunction,
    options: Options,
    rng: random.Random,
) -> list[Row]:
    """A ranking for each prompt: of its own completions and of some that answer another prompt."""
    compared = []
    for number, (row, own) in enumerate(zip(rows, sampled, strict=True)):
        others = [i for i in range(len(rows)) if i != number]
        swapped = [rng.choice(sampled[i]) for i in rng.sample(others, min(options.swapped, len(others)))]
        completions = own + swapped
        texts, ended = [c.text for c in completions], [c.ended for c in completions]
        quality = score_texts(label, [row] * len(completions), texts, ended)
        if not all(map(math.isfinite, quality)):
            raise InputError(f"{options.labeller} gives no number for an answer to {words_of(row['prompt'])!r}")
        ranks = rank(texts, quality, options.noise, options.tie_margin, rng)
        from_other = [False] * len(own) + [True] * len(swapped)
        columns = {"completions": texts, "ranks": ranks, "ended": ended, "quality": quality, "swapped": from_other}
        compared.append({**row, **columns})
    return compared


if __name__ == "__main__":
    main("comparisons", Options, work)
