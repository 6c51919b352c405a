"""The reward model: the SFT model with a score head, trained on rankings of K completions, then normalised.

make reward
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase, set_seed
from transformers.trainer_callback import PrinterCallback
from trl import RewardConfig

from rlhf.classifiers import Scorer, has_head
from rlhf.engine import sharding_plugin
from rlhf.evaluate import CHANCE, Counts, Estimate, Point, measure_curve, more_needed, ratio_estimate
from rlhf.models import context_length, device, load_scorer, new_scorer, stop_token_ids
from rlhf.reward import by_prompt, pad_ranks, pair_accuracy, score_sequences, set_normalisation
from rlhf.rows import Row, Tally, read_lines, read_rows
from rlhf.tokens import comparison_dataset, demonstration_dataset, is_rendered, load_tokenizer, prompt_ids
from stages.common.console import say
from stages.common.options import RewardOptions
from stages.common.preview import say_if_too_long, say_ranking
from stages.common.stage import Stage, main
from stages.common.token_files import token_files
from stages.common.training import SavingRewardTrainer, length_remedy, new_trainer, row_limit, train, trainer_arguments

NORMALISED_ON = 4096  # maximum number of sequences over which scores are normalised
Item = TypeVar("Item")
PairCounts = dict[str, Counts]


def work(options: RewardOptions, stage: Stage) -> dict[str, Any]:
    """Writes the reward model and the tokenizer; returns row counts, test accuracies and the log for the record."""
    arguments = trainer_arguments(RewardConfig, options, stage.partial)
    source = stage.model(options.model, "sft")
    tokenizer = load_tokenizer(source)
    set_seed(options.seed)
    scorer = new_scorer(source, tokenizer, options)
    stage.check_saving(scorer.save_pretrained, tokenizer.save_pretrained)
    longest, stops = row_limit(options, context_length(scorer.model)), stop_token_ids(source, tokenizer)

    tally, test_tally = Tally(), Tally()
    path = stage.rows(options.comparisons, "train.jsonl", "comparisons")
    rows = read_rows(path, "comparisons", tally)
    dataset = comparison_dataset(rows, tokenizer, longest, tally, stops, token_files(stage, path))
    test_file, test = stage.rows(options.comparisons_test, "test.jsonl", "comparisons"), None
    test_rows: Sequence[Row] = []
    if any(read_lines(test_file)):  # the file is empty if the data has too few rankings to hold some out
        test_rows = read_rows(test_file, "comparisons", test_tally)
        test = comparison_dataset(test_rows, tokenizer, longest, test_tally, stops)
    completions = int(completion_counts(dataset).sum())
    say(f"{tally}, {completions:,} completions, {options.epochs:g} epochs; test: {test_tally}")
    say_if_too_long(tally, length_remedy(options, context_length(scorer.model)))
    first = dataset[0]
    row = rows[first["row"]]
    (prompt,) = prompt_ids(tokenizer, [row["prompt"]], [row.get("tools")], [is_rendered(row)])
    say_ranking(tokenizer, first["sequences"], first["ranks"], prompt)

    trainer = new_trainer(
        SavingRewardTrainer, options, model=scorer.model, arguments=arguments, dataset=dataset, tokenizer=tokenizer
    )
    history = train(trainer, stage, options)
    scorer.eval()
    normalise(scorer, tokenizer, dataset, stops, options, stage)
    scorer.save_pretrained(stage.partial, options.merge)
    tokenizer.save_pretrained(stage.partial)

    report = report_test(scorer, source, tokenizer, dataset, test, test_rows, options, stage)
    return {"rows": tally.as_dict(), "test_rows": test_tally.as_dict(), **report, "history": history}


def normalise(
    scorer: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    comparisons: Dataset,
    stops: list[int],
    options: RewardOptions,
    stage: Stage,
) -> None:
    """Normalises the model's scores: mean 0 over the configured rows and, if configured, unit standard deviation."""
    rng = random.Random(options.seed)
    sequences = some_sequences(comparisons, rng)
    scores = score_sequences(scorer, sequences, tokenizer.pad_token_id)
    mean = 0.0
    if options.normalise_on == "comparisons":
        mean = float(scores.mean())
    elif options.normalise_on == "demonstrations":
        rows = _subset(read_rows(stage.rows(None, "demonstrations.jsonl"), "demonstrations"), rng)
        longest, tally = context_length(scorer.model), Tally(used=len(rows))
        demonstrations = demonstration_dataset(rows, tokenizer, longest, tally, stops)
        mean = float(score_sequences(scorer, demonstrations["input_ids"], tokenizer.pad_token_id).mean())
    set_normalisation(scorer, mean, float(scores.std()) if options.unit_deviation else 1.0)


def completion_counts(comparisons: Dataset) -> np.ndarray:
    """The number of completions of each row."""
    return pc.list_value_length(comparisons.data.column("ranks")).to_numpy()


def some_sequences(comparisons: Dataset, rng: random.Random) -> list[list[int]]:
    """The token ids of all sequences of all rows, or of NORMALISED_ON random ones."""
    ends = completion_counts(comparisons).cumsum()
    chosen = np.array(_subset(range(ends[-1]), rng))
    rows = np.searchsorted(ends, chosen, side="right")
    # the position is counted from the end of the row; the others of the file stay on the disk
    return [
        comparisons[int(row)]["sequences"][position] for row, position in zip(rows, chosen - ends[rows], strict=True)
    ]


def _subset(items: Sequence[Item], rng: random.Random) -> Sequence[Item]:
    """All items, or NORMALISED_ON random ones, whose mean has a standard error of 1/64 of the standard deviation."""
    return items if len(items) <= NORMALISED_ON else rng.sample(items, NORMALISED_ON)


def report_test(
    scorer: Scorer,
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    test: Dataset | None,
    test_rows: Sequence[Row],
    options: RewardOptions,
    stage: Stage,
) -> dict[str, Any]:
    """What the record says of the held-out rankings: metrics and, if asked for or in doubt, the learning curve."""
    if test is None:
        return {"metrics": {}}
    rows = [test_rows[i] for i in test["row"]]
    counts = partial(pair_counts, tokenizer=tokenizer, test=test, rows=rows)
    metrics = report_accuracy(scorer, source, tokenizer, counts)
    doubtful = any("rater" in row for row in rows) and metrics.get("accuracy_low", 1.0) <= CHANCE
    if "accuracy" not in metrics or not (options.learning_curve or doubtful):
        return {"metrics": metrics}
    return {"metrics": metrics, **report_curve(source, tokenizer, dataset, counts, metrics, options, stage)}


def report_accuracy(
    scorer: Scorer, source: str, tokenizer: PreTrainedTokenizerBase, counts: Callable[[Scorer], PairCounts]
) -> dict[str, float]:
    """Prints the accuracies on held-out rankings, and returns them as metrics with their intervals.

    If training started from a reward model at `source`, they include its `accuracy_before`.
    """
    accuracies = estimates(counts(scorer))
    if has_head(source) and "accuracy" in accuracies:
        before = load_scorer(source, tokenizer)
        accuracies["accuracy_before"] = estimates(counts(before.to(device())))["accuracy"]
    metrics: dict[str, float] = {}
    for name, accuracy in accuracies.items():
        say(f"{name.replace('_', ' ')} {accuracy}")
        metrics |= accuracy.named(name)
    return metrics


def report_curve(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    counts: Callable[[Scorer], PairCounts],
    metrics: dict[str, float],
    options: RewardOptions,
    stage: Stage,
) -> dict[str, Any]:
    """Trains new models on parts of the rankings; prints and returns the learning curve for the record."""
    if sharding_plugin() is not None:
        say("no learning curve: the models are sharded")
        return {}

    def train_on(indices: Sequence[int]) -> Counts:
        arguments = trainer_arguments(RewardConfig, options, stage.partial)
        arguments.report_to = []
        set_seed(options.seed)
        scorer = new_scorer(source, tokenizer, options)
        part = dataset.select(indices).flatten_indices(keep_in_memory=True)
        trainer = new_trainer(
            SavingRewardTrainer, options, model=scorer.model, arguments=arguments, dataset=part, tokenizer=tokenizer
        )
        trainer.stage = stage
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        scorer.eval()
        return counts(scorer)["accuracy"]

    accuracy = Estimate(metrics["accuracy"], metrics["accuracy_low"], metrics["accuracy_high"])
    points = [*measure_curve(len(dataset), train_on, options.seed), Point(len(dataset), accuracy)]
    for line in in_words(points):
        say(line)
    return {"learning_curve": [point.as_dict() for point in points]}


def in_words(points: Sequence[Point]) -> list[str]:
    """The curve and what follows from it, as lines; `points` end with that of all rankings."""
    listed = ", ".join(f"{point.accuracy} from {point.rankings:,}" for point in points)
    lines = [f"learning curve: accuracy {listed} rankings"]
    if points[-1].accuracy.low > CHANCE:
        return lines
    if needed := more_needed(points):
        advice = f"about {needed:,} more rankings may bring it there, by the trend of these {len(points)} accuracies"
    elif len(points) > 1:
        advice = "can't tell how many more rankings would help, because it does not rise clearly with their number"
    else:
        advice = "can't tell how many more rankings would help: there are too few to train on parts of them"
    return [*lines, f"the accuracy is not above chance, {CHANCE}: {advice}"]


def estimates(counts: PairCounts) -> dict[str, Estimate]:
    """The accuracies of `pair_counts` with their intervals."""
    return {name: ratio_estimate(correct.tolist(), pairs.tolist()) for name, (correct, pairs) in counts.items()}


def pair_counts(scorer: Scorer, tokenizer: PreTrainedTokenizerBase, test: Dataset, rows: list[Row]) -> PairCounts:
    """For each accuracy on held-out rankings that has a pair: correctly ordered pairs and pairs of each ranking, (B,).

    The accuracy is the share of pairs that the scores order correctly. If true quality is known, `accuracy` is measured
    against it and `label_accuracy` against the ranks; otherwise `accuracy` is measured against the ranks.
    `accuracy_own` leaves out completions of other prompts. `length_accuracy` is the accuracy of preferring the longer
    completion.
    """
    sequences = [ids for row in test["sequences"] for ids in row]
    ranks = pad_ranks(test["ranks"])
    scores = by_prompt(score_sequences(scorer, sequences, tokenizer.pad_token_id), ranks)
    orders: dict[str, Tensor] = {"label_accuracy": ranks}
    if all("quality" in row for row in rows):
        quality = pad_ranks([[-q for q in row["quality"]] for row in rows])
        orders = {"accuracy": quality, **orders}
        if any(any(row.get("swapped", [])) for row in rows):
            swapped = pad_ranks([[float(s) for s in row["swapped"]] for row in rows])
            orders["accuracy_own"] = quality.where(swapped == 0, torch.nan)
    else:
        orders = {"accuracy": ranks}
    lengths = by_prompt(torch.tensor([float(len(ids)) for ids in sequences]), ranks)
    counts = {name: pair_accuracy(scores, order) for name, order in orders.items()}
    counts["length_accuracy"] = pair_accuracy(lengths, orders["accuracy"])
    # without two completions of different quality there is no accuracy
    return {name: (correct, pairs) for name, (correct, pairs) in counts.items() if pairs.sum() > 0}


if __name__ == "__main__":
    main("reward", work)
