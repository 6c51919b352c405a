"""Optimizers on the same pretraining, each with the best of five learning rates, and documents in other orders.

All start from the same weights of a seed, and clip the gradient to a norm of 1. The learning rate is chosen by the
held-out loss of one seed; with it two more seeds are trained.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf.evaluate import sequence_logprobs
from rlhf.models import context_length, load_policy
from rlhf.rows import Row, read_rows, write_rows
from rlhf.tokens import load_tokenizer, text_dataset
from stages.common.run import BASE, Run, record_of
from stages.experiments.output import interval
from stages.experiments.results import estimate, row_of
from stages.experiments.variants import SEEDS, Runs, Variant, variant

QUESTION = "Which optimizer pretrains best, and does the order of the documents matter?"
PAPER = "GPT-1, section 4.1; Kingma and Ba, arXiv 1412.6980; Loshchilov and Hutter, arXiv 1711.05101"
LOOK = "whether the order of the curves is the same by tokens and by seconds."
CHANGE = "OPTIMISERS in `stages/experiments/optimisers.py`: its learning rates, or another name that transformers has."
PAGE = "paper-experiments.md"

DOCUMENTS = 5000  # to train on, one epoch
FOLDER = "optimisers"  # in the folder of the experiments
SHUFFLED, IN_FILE, SORTED = "shuffled", "in the order of the file", "sorted by their text"
COUNTED = {"include_num_input_tokens_seen": "non_padding"}  # the Trainer logs the tokens and the seconds so far
# the file that each order trains on, and the module in place of the stage
ORDERS = {
    SHUFFLED: ("text.jsonl", ""),
    IN_FILE: ("text.jsonl", "experiments.pretraining.in_order"),
    SORTED: ("sorted.jsonl", "experiments.pretraining.in_order"),
}


@dataclass(frozen=True)
class Optimiser:
    """How an optimizer is chosen, and the five learning rates that are tried."""

    rates: tuple[float, ...]
    arguments: tuple[tuple[str, str], ...] = ()  # of transformers' Trainer
    module: str = ""


OPTIMISERS = {
    "SGD": Optimiser((0.1, 0.3, 1.0, 3.0, 10.0), (("optim", "sgd"),)),
    "momentum": Optimiser((0.01, 0.03, 0.1, 0.3, 1.0), (("optim", "sgd"), ("optim_args", "momentum=0.9"))),
    "RMSprop": Optimiser((1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (("optim", "rmsprop"),)),
    "Adam": Optimiser((3e-4, 1e-3, 3e-3, 1e-2, 3e-2), module="experiments.pretraining.adam"),
    "AdamW": Optimiser((3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "Muon": Optimiser((1e-3, 3e-3, 1e-2, 3e-2, 1e-1), module="experiments.pretraining.muon"),
}
RECIPE = "AdamW"  # with which the orders are compared


def prepare(runs: Runs) -> None:
    """Writes the documents to train on, in the order of the finished run's file and sorted, to the folder."""
    path = Run(runs.base).find("data") / "text.jsonl"
    documents = list(read_rows(path, "text")[:DOCUMENTS])
    folder = runs.root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "text.jsonl", documents)
    write_rows(folder / "sorted.jsonl", sorted(documents, key=_text))


def _text(row: Row) -> str:
    return str(row.get("text") or row["messages"])


def trained(name: str, rate: float, seed: int = 0, order: str = SHUFFLED) -> Variant:
    """Pretraining with an optimizer and a learning rate, with the tokenizer of the finished run."""
    optimiser, (file, module) = OPTIMISERS[name], ORDERS[order]
    arguments = {**dict(optimiser.arguments), **COUNTED}
    return variant(
        "pretrain",
        module=module or optimiser.module,
        seed=seed,
        learning_rate=rate,
        text=f"{BASE}experiments/{FOLDER}/{file}",
        trainer=json.dumps(arguments),
        tokenizer=f"{BASE}pretrain",
        epochs=1,
        save_minutes="none",
    )


def variants() -> list[Variant]:
    """Each optimizer with each of its learning rates, one seed. `measure` makes those that depend on the best rate."""
    return [trained(name, rate) for name, optimiser in OPTIMISERS.items() for rate in optimiser.rates]


def measure(runs: Runs) -> list[dict[str, Any]]:
    """Rows of four kinds: a learning rate; an optimizer with its best one; points of its loss curve; an order.

    Losses are in nats per token, held out but for the curves, where they are those of training. `behind` is the loss of
    an optimizer minus the lowest, and that of an order minus the loss of shuffled documents.
    """
    documents = HeldOutText(runs)
    best, rows = {}, []
    for name, optimiser in OPTIMISERS.items():
        by_rate = {rate: documents.losses([trained(name, rate)]) for rate in optimiser.rates}
        best[name] = min(optimiser.rates, key=lambda rate: by_rate[rate].mean())
        rows += [row_of(optimizer=n, rate=rate, loss=float(x.mean())) for n, rate, x in _named(name, by_rate)]
    chosen = {name: [trained(name, rate, seed) for seed in SEEDS] for name, rate in best.items()}
    ordered = {order: [trained(RECIPE, best[RECIPE], seed, order) for seed in SEEDS] for order in ORDERS}
    runs.make([v for group in (*chosen.values(), *ordered.values()) for v in group])

    losses = {name: documents.losses(group) for name, group in chosen.items()}
    lowest = min(losses, key=lambda name: losses[name].mean())
    for name, values in losses.items():
        behind = {} if name == lowest else {"behind": estimate(values, losses[lowest])}
        points = curve(runs, chosen[name])
        rows.append(row_of(optimizer=name, best=best[name], held_out=estimate(values), **behind, **points[-1]))
        rows += [row_of(optimizer=name, **point) for point in points[:-1]]
    for order, group in ordered.items():
        values = documents.losses(group)
        behind = {} if order == SHUFFLED else {"behind": estimate(values, losses[RECIPE])}
        rows.append(row_of(order=order, held_out=estimate(values), **behind))
    return rows


def _named(name: str, by_rate: dict[float, np.ndarray]) -> list[tuple[str, float, np.ndarray]]:
    return [(name, rate, losses) for rate, losses in by_rate.items()]


class HeldOutText:
    """The held-out documents of the finished run, as token ids."""

    def __init__(self, runs: Runs):
        self.runs, folder = runs, Run(runs.base)
        self.tokenizer = load_tokenizer(str(folder.find("pretrain")))
        policy = load_policy(str(folder.find("pretrain")), self.tokenizer)
        rows = read_rows(folder.find("data") / "text_test.jsonl", "text")
        self.documents = text_dataset(rows, self.tokenizer, context_length(policy))["input_ids"]

    def losses(self, variants: list[Variant]) -> np.ndarray:
        """The loss of each document by the model of each variant, (variants, documents), over the mean of its tokens.

        So the mean of a row is the loss per token.
        """
        tokens = np.mean([len(ids) - 1 for ids in self.documents])
        policies = (load_policy(str(self.runs.result(v)), self.tokenizer).eval() for v in variants)
        ones, pad_id = [1] * len(self.documents), self.tokenizer.pad_token_id
        return np.array([-sequence_logprobs(policy, self.documents, ones, pad_id) / tokens for policy in policies])


def curve(runs: Runs, variants: list[Variant]) -> list[dict[str, float]]:
    """Points of the loss in training, means over 20 steps and seeds, with the tokens and the seconds until then."""
    histories = [record_of(runs.result(v))["history"] for v in variants]
    names = {"tokens": "num_input_tokens_seen", "seconds": "train_runtime", "training": "loss"}
    return [
        {name: float(np.mean([row[logged] for row in rows])) for name, logged in names.items()}
        for rows in zip(*histories, strict=True)
    ]


def draw(rows: list[dict[str, Any]], figure: Any) -> None:
    """The loss in training by tokens and by seconds, and the held-out loss by learning rate; a colour each."""
    by_tokens, by_seconds, by_rate = figure.subplots(1, 3)
    for name in OPTIMISERS:
        own = [row for row in rows if row.get("optimizer") == name]
        points = sorted((row for row in own if "tokens" in row), key=lambda row: row["tokens"])
        for axis, x in ((by_tokens, "tokens"), (by_seconds, "seconds")):
            axis.plot([row[x] for row in points], [row["training"] for row in points], label=name)
        rates = [row for row in own if "rate" in row]
        by_rate.plot([row["rate"] for row in rates], [row["loss"] for row in rates], marker="o", markersize=3)
    for axis, x in ((by_tokens, "tokens"), (by_seconds, "seconds")):
        axis.set(xlabel=x, yscale="log", title="loss in training")
    by_rate.set(xlabel="learning rate", xscale="log", yscale="log", title="held-out loss")
    by_tokens.legend(fontsize=7)


def seen(rows: list[dict[str, Any]]) -> str:
    """The held-out losses with the best learning rates, the seconds that they took, and what the orders cost."""
    best = sorted((row for row in rows if "best" in row), key=lambda row: row["held_out"])
    lowest, others = best[0], best[1:]
    same = [row["optimizer"] for row in others if row["behind_low"] <= 0]
    listed = ", ".join(f"{row['optimizer']} {interval(row, 'held_out')}" for row in best)
    apart = f"{_words(same)} not clearly behind {lowest['optimizer']}" if same else "all others are clearly behind"
    ends = [row["optimizer"] for row in best if row["best"] in _ends(rows, row["optimizer"])]
    inside = f"; best rate at the end of its range: {', '.join(ends)}" if ends else ""
    seconds = ", ".join(f"{row['optimizer']} {row['seconds']:.0f}" for row in sorted(best, key=lambda r: r["seconds"]))
    orders = ". ".join(_order(row) for row in rows if row.get("order") not in (None, SHUFFLED))
    return (
        f"After {lowest['tokens']:,.0f} tokens, each with the best of five learning rates, the held-out losses are "
        f"{listed} nats per token: {apart}{inside}. Seconds, two runs at once: {seconds}. {orders}."
    )


def _words(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _ends(rows: list[dict[str, Any]], name: str) -> tuple[float, float]:
    """The lowest and the highest learning rate that was tried with an optimizer."""
    rates = [row["rate"] for row in rows if row.get("optimizer") == name and "rate" in row]
    return min(rates), max(rates)


def _order(row: dict[str, Any]) -> str:
    """The loss with an order of the documents beside that of shuffled ones, in words."""
    verdict = "no clear difference"
    if row["behind_low"] > 0:
        verdict = "clearly worse"
    elif row["behind_high"] < 0:
        verdict = "clearly better"
    return f"Documents {row['order']} change the loss of {RECIPE} by {interval(row, 'behind')}: {verdict}"
