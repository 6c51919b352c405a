"""Rows of each kind as datasets of token ids."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rlhf import InputError
from rlhf.rows import AS_TEXT, Row, Tally
from rlhf.tokens.chats import RefusedChat
from rlhf.tokens.control_tokens import is_rendered, marked_row
from rlhf.tokens.files import Columns, TokenFiles, dataset_of, find_dataset
from rlhf.tokens.ids import completion_ids, prompt_ids, text_ids
from rlhf.tokens.labels import IGNORED, Labeller

Example = dict[str, Any]
TOO_LONG = "longer than"  # how the reason to drop a row that is too long begins

# Each `..._columns` turns rows into columns, and counts dropped rows by reason. `start` is the index of the first row.
# The result depends on nothing else, so that several processes can share the rows.


def text_dataset(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    files: TokenFiles | None = None,
    tally: Tally | None = None,
    labels: bool = False,
) -> Dataset:
    """Documents split into pieces of at most `max_length` tokens; columns `input_ids`, `length` and `row`.

    `row` is the index of a piece's document in `rows`. `labels` adds a copy of `input_ids`. Chats that the chat
    template refuses are dropped and counted in `tally`. With `files`, the dataset is in Arrow files there. Raises
    InputError if all are dropped.
    """
    tally = Tally(used=len(rows)) if tally is None else tally
    columns = partial(text_columns, tokenizer=tokenizer, max_length=max_length, labels=labels)
    dataset = dataset_of(rows, columns, files, tally)
    return _not_empty(dataset, tally) if tally.dropped else dataset


def tokenised_text(
    tokenizer: PreTrainedTokenizerBase, max_length: int, files: TokenFiles
) -> tuple[Dataset, int] | None:
    """The result of an earlier call of `text_dataset`, and the number of documents; None if there is none."""
    return find_dataset(partial(text_columns, tokenizer=tokenizer, max_length=max_length, labels=False), files)


def text_columns(
    rows: Sequence[Row], start: int, tokenizer: PreTrainedTokenizerBase, max_length: int, labels: bool
) -> tuple[Columns, Counter[str]]:
    """The columns of `text_dataset`."""

    def examples_of(rows: Sequence[Row], start: int) -> list[Example]:
        texts = [row["messages"] if "messages" in row else row["text"] for row in rows]
        return [
            {"input_ids": (piece := ids[i : i + max_length]), "length": len(piece), "row": row}
            for row, ids in enumerate(text_ids(tokenizer, texts, _tools(rows), _rendered(rows)), start)
            for i in range(0, len(ids), max_length)
            if len(ids) - i > 1  # a single token has no next token to predict
        ]

    examples, refused = _without_refused(tokenizer, rows, start, examples_of)
    columns = _columns(examples, ("input_ids", "length", "row"))
    return columns | ({"labels": columns["input_ids"]} if labels else {}), refused


def demonstration_dataset(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    tally: Tally,
    stop_ids: Sequence[int] = (),
    files: TokenFiles | None = None,
    last_reply_only: bool = False,
) -> Dataset:
    """Prompts with completions; columns `input_ids`, `labels`, `length` and `not_located`.

    Labels are -100, which the loss ignores, except on learned replies, see `Labeller`. `not_located` is the number of
    replies that are not learned because they can't be located. Longer rows and chats that the chat template refuses are
    dropped and counted in `tally`. With `files`, the dataset lies in Arrow files there. Raises InputError if no row is
    left.
    """
    columns = partial(
        demonstration_columns,
        tokenizer=tokenizer,
        max_length=max_length,
        stop_ids=tuple(stop_ids),
        last_reply_only=last_reply_only,
    )
    return _not_empty(dataset_of(rows, columns, files, tally), tally)


def demonstration_columns(
    rows: Sequence[Row],
    start: int,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stop_ids: Sequence[int],
    last_reply_only: bool,
) -> tuple[Columns, Counter[str]]:
    """The columns of `demonstration_dataset`."""
    labeller = Labeller(tokenizer, stop_ids, last_reply_only)

    def examples_of(rows: Sequence[Row], start: int) -> list[Example]:
        prompts, replies = [row["prompt"] for row in rows], [row["completion"] for row in rows]
        columns = {"tools": _tools(rows), "rendered": _rendered(rows)}
        completions = completion_ids(tokenizer, prompts, replies, stop_ids=stop_ids, **columns)
        examples = []
        for row, prompt, completion in zip(rows, prompt_ids(tokenizer, prompts, **columns), completions, strict=True):
            labels, missed = labeller.labels(row, prompt, completion)
            ids = prompt + completion
            examples.append({"input_ids": ids, "labels": labels, "length": len(ids), "not_located": missed})
        return examples

    examples, refused = _without_refused(tokenizer, rows, start, examples_of)
    learned = [example for example in examples if any(label != IGNORED for label in example["labels"])]
    columns, dropped = _up_to(max_length, learned, ("input_ids", "labels", "length", "not_located"))
    return columns, dropped + refused + Counter({"without a reply to learn": len(examples) - len(learned)})


def comparison_dataset(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    tally: Tally,
    stop_ids: Sequence[int] = (),
    files: TokenFiles | None = None,
) -> Dataset:
    """Rankings; columns `sequences` (K lists, prompt + completion), `ranks`, `length` of the longest, and `row`.

    `row` is the index in `rows`. Longer rows and chats that the chat template refuses are dropped and counted in
    `tally`. With `files`, the dataset is in Arrow files there. Raises InputError if no row is left.
    """
    columns = partial(comparison_columns, tokenizer=tokenizer, max_length=max_length, stop_ids=tuple(stop_ids))
    return _not_empty(dataset_of(rows, columns, files, tally), tally)


def comparison_columns(
    rows: Sequence[Row], start: int, tokenizer: PreTrainedTokenizerBase, max_length: int, stop_ids: Sequence[int]
) -> tuple[Columns, Counter[str]]:
    """The columns of `comparison_dataset`."""

    def examples_of(rows: Sequence[Row], start: int) -> list[Example]:
        completions = iter(
            completion_ids(
                tokenizer,
                [row["prompt"] for row in rows for _ in row["completions"]],
                [completion for row in rows for completion in row["completions"]],
                [flag for row in rows for flag in row.get("ended", [True] * len(row["completions"]))],
                stop_ids,
                [row.get("tools") for row in rows for _ in row["completions"]],
                [is_rendered(row) for row in rows for _ in row["completions"]],
            )
        )
        examples = []
        prompts = prompt_ids(tokenizer, [row["prompt"] for row in rows], _tools(rows), _rendered(rows))
        for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True), start):
            sequences = [prompt + next(completions) for _ in row["completions"]]
            ranks, longest = [float(rank) for rank in row["ranks"]], max(map(len, sequences))
            examples.append({"sequences": sequences, "ranks": ranks, "length": longest, "row": number})
        return examples

    examples, refused = _without_refused(tokenizer, rows, start, examples_of)
    columns, dropped = _up_to(max_length, examples, ("sequences", "ranks", "length", "row"))
    return columns, dropped + refused


def prompt_dataset(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    tally: Tally,
    files: TokenFiles | None = None,
) -> Dataset:
    """Prompts; columns `input_ids`, `length` and `row`, the index in `rows`.

    Prompts of more than `max_length` tokens, and those that the chat template refuses, are dropped and counted in
    `tally`. With `files`, the dataset is in Arrow files there. Raises InputError if no row is left.
    """
    columns = partial(prompt_columns, tokenizer=tokenizer, max_length=max_length)
    return _not_empty(dataset_of(rows, columns, files, tally), tally)


def prompt_columns(
    rows: Sequence[Row], start: int, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Columns, Counter[str]]:
    """The columns of `prompt_dataset`."""

    def examples_of(rows: Sequence[Row], start: int) -> list[Example]:
        ids = prompt_ids(tokenizer, [row["prompt"] for row in rows], _tools(rows), _rendered(rows))
        return [{"input_ids": one, "length": len(one), "row": row} for row, one in enumerate(ids, start)]

    examples, refused = _without_refused(tokenizer, rows, start, examples_of)
    columns, dropped = _up_to(max_length, examples, ("input_ids", "length", "row"))
    return columns, dropped + refused


def _tools(rows: Sequence[Row]) -> list[Any]:
    """The functions that the model of each row's chat can call, or None."""
    return [row.get("tools") or None for row in rows]


def _rendered(rows: Sequence[Row]) -> list[bool]:
    """Whether each row's control tokens are control tokens, and not text."""
    return [is_rendered(row) for row in rows]


def _without_refused(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    start: int,
    examples_of: Callable[[Sequence[Row], int], list[Example]],
) -> tuple[list[Example], Counter[str]]:
    """The examples of the rows, and the counts of rows that the chat template refuses, by reason.

    Rows with control tokens as text are counted as well, with the reason AS_TEXT.
    """
    with_tokens = sum(marked_row(tokenizer, row) is not row for row in rows)
    refused = +Counter({AS_TEXT: with_tokens})
    try:
        return examples_of(rows, start), refused
    except RefusedChat:
        pass
    # all rows are tokenised together, which is faster, unless one of them is refused
    examples = []
    for number, row in enumerate(rows, start):
        try:
            examples += examples_of([row], number)
        except RefusedChat as error:
            refused[error.reason] += 1
    return examples, refused


def _columns(examples: list[Example], names: Sequence[str]) -> Columns:
    return {name: [example[name] for example in examples] for name in names}


def _up_to(max_length: int, examples: list[Example], names: Sequence[str]) -> tuple[Columns, Counter[str]]:
    """The columns of the examples that are not longer, and the count of the others."""
    kept = [example for example in examples if example["length"] <= max_length]
    dropped = Counter({f"{TOO_LONG} {max_length} tokens": len(examples) - len(kept)})
    return _columns(kept, names), +dropped


def _not_empty(dataset: Dataset, tally: Tally) -> Dataset:
    if not len(dataset):
        too_long = any(reason.startswith(TOO_LONG) for reason in tally.dropped)
        remedy = "; a longer context or max_length keeps more" if too_long else ""
        raise InputError(f"no usable rows are left: {tally}{remedy}")
    return dataset
