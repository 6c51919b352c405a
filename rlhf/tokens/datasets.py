"""Rows of each kind as datasets of token ids."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rlhf import InputError
from rlhf.rows import Row, Tally
from rlhf.tokens.files import Columns, TokenFiles, dataset_of, find_dataset
from rlhf.tokens.ids import completion_ids, prompt_ids, text_ids

# Each `..._columns` turns some rows, the first of which has the index `start`, into columns, and counts the rows that it
# drops by reason. It depends on nothing else, so that several processes can share the rows.


def text_dataset(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    files: TokenFiles | None = None,
    labels: bool = False,
) -> Dataset:
    """Documents split into pieces of at most `max_length` tokens; columns `input_ids`, `length` and `row`.

    `row` is the index of a piece's document in `rows`. `labels` adds a copy of `input_ids`. With `files`, the dataset lies
    in Arrow files there.
    """
    columns = partial(text_columns, tokenizer=tokenizer, max_length=max_length, labels=labels)
    return dataset_of(rows, columns, files)


def tokenised_text(
    tokenizer: PreTrainedTokenizerBase, max_length: int, files: TokenFiles
) -> tuple[Dataset, int] | None:
    """The result of an earlier call of `text_dataset`, and the number of documents; None if there is none."""
    return find_dataset(partial(text_columns, tokenizer=tokenizer, max_length=max_length, labels=False), files)


def text_columns(
    rows: Sequence[Row], start: int, tokenizer: PreTrainedTokenizerBase, max_length: int, labels: bool
) -> tuple[Columns, Counter[str]]:
    """The columns of `text_dataset`."""
    documents = text_ids(tokenizer, [row["messages"] if "messages" in row else row["text"] for row in rows])
    pieces = [
        (ids[i : i + max_length], row)
        for row, ids in enumerate(documents, start)
        for i in range(0, len(ids), max_length)
        if len(ids) - i > 1  # a single token has no next token to predict
    ]
    ids = [piece for piece, _ in pieces]
    columns: Columns = {"input_ids": ids, "length": list(map(len, ids)), "row": [row for _, row in pieces]}
    return columns | ({"labels": ids} if labels else {}), Counter()


def demonstration_dataset(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    tally: Tally,
    stop_ids: Sequence[int] = (),
    files: TokenFiles | None = None,
) -> Dataset:
    """Prompts with completions; columns `input_ids`, `labels` (-100, ignored by the loss, on the prompt) and `length`.

    Longer rows are dropped and counted in `tally`. With `files`, the dataset lies in Arrow files there. Raises InputError
    if no row is left.
    """
    columns = partial(demonstration_columns, tokenizer=tokenizer, max_length=max_length, stop_ids=tuple(stop_ids))
    return _not_empty(dataset_of(rows, columns, files, tally), tally)


def demonstration_columns(
    rows: Sequence[Row], start: int, tokenizer: PreTrainedTokenizerBase, max_length: int, stop_ids: Sequence[int]
) -> tuple[Columns, Counter[str]]:
    """The columns of `demonstration_dataset`."""
    prompts = [row["prompt"] for row in rows]
    completions = completion_ids(tokenizer, prompts, [row["completion"] for row in rows], stop_ids=stop_ids)
    examples = []
    for prompt, completion in zip(prompt_ids(tokenizer, prompts), completions, strict=True):
        labels = [-100] * len(prompt) + completion
        examples.append({"input_ids": prompt + completion, "labels": labels, "length": len(labels)})
    return _up_to(max_length, examples, ("input_ids", "labels", "length"))


def comparison_dataset(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    tally: Tally,
    stop_ids: Sequence[int] = (),
    files: TokenFiles | None = None,
) -> Dataset:
    """Rankings; columns `sequences` (K lists, prompt + completion), `ranks`, `length` of the longest, and `row`.

    `row` is the index in `rows`. Longer rows are dropped and counted in `tally`. With `files`, the dataset lies in Arrow
    files there. Raises InputError if no row is left.
    """
    columns = partial(comparison_columns, tokenizer=tokenizer, max_length=max_length, stop_ids=tuple(stop_ids))
    return _not_empty(dataset_of(rows, columns, files, tally), tally)


def comparison_columns(
    rows: Sequence[Row], start: int, tokenizer: PreTrainedTokenizerBase, max_length: int, stop_ids: Sequence[int]
) -> tuple[Columns, Counter[str]]:
    """The columns of `comparison_dataset`."""
    completions = iter(
        completion_ids(
            tokenizer,
            [row["prompt"] for row in rows for _ in row["completions"]],
            [completion for row in rows for completion in row["completions"]],
            [flag for row in rows for flag in row.get("ended", [True] * len(row["completions"]))],
            stop_ids,
        )
    )
    examples = []
    prompts = prompt_ids(tokenizer, [row["prompt"] for row in rows])
    for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True), start):
        sequences = [prompt + next(completions) for _ in row["completions"]]
        ranks, longest = [float(rank) for rank in row["ranks"]], max(map(len, sequences))
        examples.append({"sequences": sequences, "ranks": ranks, "length": longest, "row": number})
    return _up_to(max_length, examples, ("sequences", "ranks", "length", "row"))


def prompt_dataset(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    tally: Tally,
    files: TokenFiles | None = None,
) -> Dataset:
    """Prompts; columns `input_ids`, `length` and `row`, the index in `rows`.

    Prompts of more than `max_length` tokens are dropped and counted in `tally`. With `files`, the dataset lies in Arrow
    files there. Raises InputError if no row is left.
    """
    columns = partial(prompt_columns, tokenizer=tokenizer, max_length=max_length)
    return _not_empty(dataset_of(rows, columns, files, tally), tally)


def prompt_columns(
    rows: Sequence[Row], start: int, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Columns, Counter[str]]:
    """The columns of `prompt_dataset`."""
    ids = prompt_ids(tokenizer, [row["prompt"] for row in rows])
    examples = [{"input_ids": one, "length": len(one), "row": row} for row, one in enumerate(ids, start)]
    return _up_to(max_length, examples, ("input_ids", "length", "row"))


def _up_to(max_length: int, examples: list[dict[str, Any]], names: Sequence[str]) -> tuple[Columns, Counter[str]]:
    """The columns of the examples that are not longer, and the count of the others."""
    kept = [example for example in examples if example["length"] <= max_length]
    dropped = Counter({f"longer than {max_length} tokens": len(examples) - len(kept)})
    return {name: [example[name] for example in kept] for name in names}, +dropped


def _not_empty(dataset: Dataset, tally: Tally) -> Dataset:
    if not len(dataset):
        raise InputError(f"no usable rows are left: {tally}; a longer context or max_length keeps more")
    return dataset
