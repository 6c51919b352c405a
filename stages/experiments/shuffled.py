"""Pairs of a prompt in one batch element, or shuffled as rows of their own: which reward model overfits."""

import random
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf import InputError
from rlhf.reward import better_pairs
from rlhf.rows import Row, read_rows, write_rows
from stages.common.run import BASE, CHECKPOINTS, Run
from stages.experiments.accuracy import Rankings, accuracies, held_out, read_rankings, scores_of
from stages.experiments.output import interval, plot
from stages.experiments.results import estimate, row_of
from stages.experiments.variants import SEEDS, Runs, Variant, variant

QUESTION = "Does a reward model overfit if the pairs of a prompt are shuffled instead of one batch element?"
PAPER = "InstructGPT, section 3.5"
LOOK = (
    "whether training accuracy rises while the accuracy on held-out pairs falls, and after which epoch the loss rises."
)
CHANGE = "RANKINGS in `stages/experiments/shuffled.py`: fewer overfit sooner."
PAGE = "reward-model-experiments.md"

RANKINGS = 1000  # to train on, without ties, so that each gives as many pairs
COMPLETIONS = 5  # of each ranking, the one of another prompt included
BATCH = 8  # rankings of an optimizer step
EPOCHS = 4
FORMS = {"one element": "rankings.jsonl", "shuffled": "pairs.jsonl"}  # the file that each trains on
FOLDER = "shuffled"  # in the folder of the experiments


def pairs_of(ranking: Row) -> list[Row]:
    """Each pair of a ranking as a row {prompt, chosen, rejected}; a tie gives none."""
    completions, ranks = ranking["completions"], ranking["ranks"]
    ended = ranking.get("ended", [True] * len(ranks))
    rows = []
    for pair in combinations(range(len(ranks)), 2):
        better, worse = sorted(pair, key=ranks.__getitem__)
        if ranks[better] < ranks[worse]:
            texts = {"chosen": completions[better], "rejected": completions[worse]}
            rows.append({"prompt": ranking["prompt"], **texts, "ended": [ended[better], ended[worse]]})
    return rows


def prepare(runs: Runs) -> None:
    """Writes the rankings to train on, and the same as shuffled pairs, to the folder of the experiment.

    Raises InputError if the finished run has too few rankings without ties.
    """
    path = Run(runs.base).find("comparisons") / "train.jsonl"
    whole = [row for row in read_rows(path, "comparisons") if len(set(row["ranks"])) == COMPLETIONS]
    if len(whole) < RANKINGS:
        raise InputError(
            f"{path} has {len(whole):,} rankings of {COMPLETIONS} completions without ties; the experiment takes "
            f"{RANKINGS:,}: lower RANKINGS in {__file__}, or take another BASE"
        )
    pairs = [pair for row in whole[:RANKINGS] for pair in pairs_of(row)]
    random.Random(0).shuffle(pairs)
    folder = runs.root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for file, rows in zip(FORMS.values(), (whole[:RANKINGS], pairs), strict=True):
        write_rows(folder / file, rows)


def setting(form: str) -> list[Variant]:
    """The reward model trained on this form, one variant for each seed; a checkpoint after each epoch.

    Both forms have as many pairs in a step, so as many steps in an epoch.
    """
    pairs = COMPLETIONS * (COMPLETIONS - 1) // 2
    return [
        variant(
            "reward",
            comparisons=f"{BASE}experiments/{FOLDER}/{FORMS[form]}",
            epochs=EPOCHS,
            batch_size=BATCH if form == "one element" else BATCH * pairs,
            save_steps=RANKINGS // BATCH,
            save_minutes="none",
            save_total_limit=EPOCHS,
            seed=seed,
        )
        for seed in SEEDS
    ]


def variants() -> list[Variant]:
    """The reward model trained on each form."""
    return [v for form in FORMS for v in setting(form)]


def losses(scores: list[Tensor], ranks: Tensor) -> np.ndarray:
    """The loss of each model on each ranking with a pair, a mean over its pairs: (models, rankings)."""
    better = better_pairs(ranks)
    pairs = better.sum(dim=(1, 2))
    sums = [
        -logsigmoid(of_model[:, :, None] - of_model[:, None, :]).where(better, 0.0).sum(dim=(1, 2))
        for of_model in scores
    ]
    return np.array([(total / pairs)[pairs > 0].numpy() for total in sums])


def measure(runs: Runs) -> list[dict[str, Any]]:
    """A row for each form and epoch: accuracy on the rankings trained on, and accuracy and loss on held-out ones.

    The training accuracy and the losses are those of the labeller's ranks. The held-out accuracy is that of true
    quality if it is known. Of shuffled pairs, `lost` is the held-out accuracy of one element minus their own, and
    `fitted` their training accuracy minus that of one element. `risen` is the loss minus the lowest of the form.
    """
    test, train = held_out(runs), read_rankings(runs, runs.root / FOLDER / FORMS["one element"])
    rows: list[dict[str, Any]] = []
    by_form: dict[str, list[dict[str, np.ndarray]]] = {}
    for form in FORMS:
        own = by_form[form] = [after_epoch(runs, form, epoch, train, test) for epoch in range(1, EPOCHS + 1)]
        lowest = min((numbers["loss"] for numbers in own), key=np.mean)
        for epoch, (numbers, other) in enumerate(zip(own, by_form["one element"], strict=True), start=1):
            entries = {name: estimate(values) for name, values in numbers.items()}
            if numbers["loss"] is not lowest:
                entries["risen"] = estimate(numbers["loss"] - lowest)  # of the same models
            if form == "shuffled":
                entries["lost"] = estimate(other["accuracy"], numbers["accuracy"])
                entries["fitted"] = estimate(numbers["train_accuracy"], other["train_accuracy"])
            rows.append(row_of(form=form, epoch=epoch, **entries))
    return rows


def after_epoch(runs: Runs, form: str, epoch: int, train: Rankings, test: Rankings) -> dict[str, np.ndarray]:
    """Numbers of the checkpoints after an epoch, (seeds, rankings) each."""
    folders = [runs.result(v) / CHECKPOINTS / f"step-{epoch * (RANKINGS // BATCH):07d}" for v in setting(form)]
    on_train = [scores_of(folder, train) for folder in folders]
    on_test = [scores_of(folder, test) for folder in folders]
    return {
        "train_accuracy": accuracies(on_train, train.ranks),
        "accuracy": accuracies(on_test, test.order()),
        "loss": losses(on_test, test.ranks),
    }


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """Accuracies, and the held-out loss, by epoch; a colour for each form."""
    left, right = figure.subplots(1, 2)
    for form, colour in zip(FORMS, ("tab:blue", "tab:orange"), strict=True):
        own = [row for row in rows if row["form"] == form]
        plot(left, own, "epoch", "train_accuracy", color=colour, linestyle=":", label=f"{form}, training")
        plot(left, own, "epoch", "accuracy", color=colour, label=f"{form}, held out")
        plot(right, own, "epoch", "loss", color=colour, label=form)
    left.set(title="accuracy", xlabel="epochs")
    right.set(title="loss on held-out rankings", xlabel="epochs")
    for axis in (left, right):
        axis.set_xticks(sorted({row["epoch"] for row in rows}))
        axis.legend(fontsize=8)


def seen(rows: list[dict[str, Any]]) -> str:
    """Whether shuffled pairs cost held-out accuracy, and whether the loss of each form rises after its lowest."""
    by_form = {form: [row for row in rows if row["form"] == form] for form in FORMS}
    element, shuffled = (own[-1] for own in by_form.values())
    fit = "fit" if shuffled["fitted_low"] > 0 else "do not clearly fit"
    outcome = (
        "lose accuracy"
        if shuffled["lost_low"] > 0
        else "gain accuracy"
        if shuffled["lost_high"] < 0
        else "do not clearly change the accuracy"
    )
    first = (
        f"After {element['epoch']:.0f} epochs shuffled pairs {fit} the training pairs better "
        f"({shuffled['train_accuracy']:.3f} against {element['train_accuracy']:.3f}), and {outcome} on held-out pairs: "
        f"{interval(shuffled, 'accuracy', 3)} against {interval(element, 'accuracy', 3)}."
    )
    return f"{first} The held-out loss {', and '.join(_course(form, own) for form, own in by_form.items())}."


def _course(form: str, rows: list[dict[str, Any]]) -> str:
    """How the held-out loss of a form goes on after its lowest, in words."""
    name = "of one element per prompt" if form == "one element" else "of shuffled pairs"
    lowest, last = next(row for row in rows if "risen" not in row), rows[-1]
    if lowest is last:
        return f"{name} is lowest after the last epoch, {last['loss']:.3f}"
    rises = "rises" if last["risen_low"] > 0 else "does not clearly rise,"
    return f"{name} {rises} from {lowest['loss']:.3f} after epoch {lowest['epoch']:.0f} to {last['loss']:.3f}"
