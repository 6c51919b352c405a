"""The reward model: the SFT model with a head for one number, trained on rankings of K completions, then normalised."""

import random
from dataclasses import dataclass
from typing import Literal

import torch
from datasets import Dataset
from transformers import set_seed
from trl import RewardConfig

from rlhf.config import option
from rlhf.data import Row, Tally, comparison_dataset, demonstration_dataset, read_lines, read_rows
from rlhf.evaluate import Estimate, ratio_estimate
from rlhf.models import Scorer, context_length, load_tokenizer, new_scorer, stop_token_ids
from rlhf.reward import by_prompt, pad_ranks, pair_accuracy, score_sequences, set_normalisation
from stages.cli import Stage, main, say
from stages.training import SavingRewardTrainer, TrainingOptions, in_batches, train, trainer_arguments

SCORED = 4096  # sequences that normalisation looks at, at most


@dataclass
class Options(TrainingOptions):
    model: str | None = option(None, "model to start from; the result of `make sft` if not given")
    comparisons: str | None = option(
        None, "JSON Lines file of rankings or pairs; what `make comparisons` wrote if not given"
    )
    comparisons_test: str | None = option(None, "the same for the test; what `make comparisons` wrote if not given")
    normalise_on: Literal["demonstrations", "comparisons", "nothing"] = option(
        "demonstrations",
        f"afterwards scores are shifted to mean 0 over these, {SCORED} at most (InstructGPT: demonstrations)",
    )
    unit_deviation: bool = option(True, "scores are also scaled to a standard deviation of 1 over the comparisons")


def work(options: Options, stage: Stage) -> dict:
    source = stage.model(options.model, "sft")
    tokenizer = load_tokenizer(source)
    set_seed(options.seed)
    scorer = new_scorer(source, tokenizer)
    longest, stops = options.longest(context_length(scorer.model)), stop_token_ids(source, tokenizer)

    tally, test_tally = Tally(), Tally()
    rows = read_rows(stage.rows(options.comparisons, "train.jsonl", "comparisons"), "comparisons", tally)
    dataset = comparison_dataset(rows, tokenizer, longest, tally, stops)
    test_file = stage.rows(options.comparisons_test, "test.jsonl", "comparisons")
    test, test_rows = [], []
    if any(read_lines(test_file)):  # few rankings leave none for it
        test_rows = read_rows(test_file, "comparisons", test_tally)
        test = comparison_dataset(test_rows, tokenizer, longest, test_tally, stops)
    completions = sum(map(len, dataset["ranks"]))
    say("", f"{tally}, {completions:,} completions, {options.epochs:g} epochs; for the test {test_tally}")

    arguments = trainer_arguments(RewardConfig, options, stage.folder)
    trainer = SavingRewardTrainer(
        model=scorer.model, args=arguments, train_dataset=in_batches(dataset, options), processing_class=tokenizer
    )
    history = train(trainer, stage, options)
    scorer.eval()
    normalise(scorer, tokenizer, dataset, stops, options, stage)
    scorer.save_pretrained(stage.folder)
    tokenizer.save_pretrained(stage.folder)

    accuracies = test_accuracy(scorer, tokenizer, test, [test_rows[i] for i in test["row"]]) if test_rows else {}
    for name, accuracy in accuracies.items():
        say("", f"{name.replace('_', ' ')} {accuracy}")
    metrics = {key: number for name, accuracy in accuracies.items() for key, number in accuracy.named(name).items()}
    return {"rows": tally.as_dict(), "test_rows": test_tally.as_dict(), "metrics": metrics, "history": history}


def normalise(
    scorer: Scorer, tokenizer, comparisons: Dataset, stops: list[int], options: Options, stage: Stage
) -> None:
    """Sets the mean and, if wished, the deviation that scores are normalised by; they are saved with the model."""
    rng = random.Random(options.seed)
    sequences = some([ids for row in comparisons["sequences"] for ids in row], rng)
    compared = score_sequences(scorer, sequences, tokenizer.pad_token_id)
    mean = 0.0
    if options.normalise_on == "comparisons":
        mean = float(compared.mean())
    elif options.normalise_on == "demonstrations":
        rows = some(read_rows(stage.rows(None, "demonstrations.jsonl"), "demonstrations"), rng)
        longest, tally = context_length(scorer.model), Tally(used=len(rows))
        demonstrations = demonstration_dataset(rows, tokenizer, longest, tally, stops)
        mean = float(score_sequences(scorer, demonstrations["input_ids"], tokenizer.pad_token_id).mean())
    set_normalisation(scorer, mean, float(compared.std()) if options.unit_deviation else 1.0)


def some(items: list, rng: random.Random) -> list:
    """All of a few items, and of many as many as a mean needs: its standard error is a 64th of the deviation."""
    return items if len(items) <= SCORED else rng.sample(items, SCORED)


def test_accuracy(scorer: Scorer, tokenizer, test: Dataset, rows: list[Row]) -> dict[str, Estimate]:
    """Share of pairs ordered as the labeller does and, where true quality is known, as that does."""
    sequences = [ids for row in test["sequences"] for ids in row]
    ranks = pad_ranks(test["ranks"])
    scores = by_prompt(score_sequences(scorer, sequences, tokenizer.pad_token_id), ranks)
    judged = {"label_accuracy": ranks}
    if all("quality" in row for row in rows):
        quality = pad_ranks([[-q for q in row["quality"]] for row in rows])
        judged = {"accuracy": quality, **judged}
        if any(any(row.get("swapped", [])) for row in rows):
            swapped = pad_ranks([[float(s) for s in row["swapped"]] for row in rows])
            judged["accuracy_own"] = quality.where(swapped == 0, torch.nan)
    else:
        judged = {"accuracy": ranks}
    lengths = by_prompt(torch.tensor([float(len(ids)) for ids in sequences]), ranks)
    counted = {name: pair_accuracy(scores, order) for name, order in judged.items()}
    counted["length_accuracy"] = pair_accuracy(lengths, judged["accuracy"])
    # where no two completions differ in quality there is no accuracy
    return {name: ratio_estimate(right, pairs) for name, (right, pairs) in counted.items() if pairs.sum() > 0}


if __name__ == "__main__":
    main("reward", Options, work)
