"""Rows of supervised tasks in the forms of `rlhf.task`, from tables with their own or with published columns.

    classification    {text, label}                    SST-2, CoLA: sentence
    entailment        {premise, hypothesis, label}     SNLI, MNLI; SNLI's own files: sentence1, sentence2, gold_label;
                                                       QNLI: question, sentence
    similarity        {text1, text2, label}            QQP: question1, question2
    choice            {context, choices, label}        RACE: article, question, options, answer (a letter)

MRPC, RTE and WNLI have the same columns, sentence1 and sentence2: the form must be given.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from data.shapes.values import from_json, is_absent, kind_of
from rlhf import InputError
from rlhf.rows import Row, Tally
from rlhf.rows.supervised import COLUMNS, Form

# the texts of each form, as a table names them; of two sets that a row has, the larger one counts
NAMES: list[tuple[Form, tuple[str, ...]]] = [
    ("classification", ("text",)),
    ("classification", ("sentence",)),
    ("entailment", ("premise", "hypothesis")),
    ("entailment", ("question", "sentence")),
    ("similarity", ("text1", "text2")),
    ("similarity", ("question1", "question2")),
    ("choice", ("context", "choices")),
    ("choice", ("context", "question", "choices")),
    ("choice", ("article", "question", "options")),
]
PAIR = ("sentence1", "sentence2")  # of entailment or of similarity
LABELS = ("label", "gold_label", "is_duplicate")
NO_GOLD = "without a gold label"
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Table:
    """The form of a table's rows, and its columns of texts and of the label."""

    form: Form
    texts: tuple[str, ...]
    label: str


def supervised_rows(rows: Iterable[tuple[str, Any]], form: str | None, tally: Tally) -> tuple[str, list[Row], set[str]]:
    """The form, the rows with the columns of `COLUMNS` and `label`, and the names of columns that are not used.

    A label is a text; of choices, the index of the right one. Rows without a gold label or with an empty text are
    dropped and counted in `tally`. `form` is needed if the columns leave it open. Raises InputError, with the place,
    for a row of another table or with a value of another type.
    """
    table: Table | None = None
    result, unused = [], set()
    for where, raw in rows:
        if not isinstance(raw, dict):
            raise InputError(f"{where}: a row is an object with columns, not {kind_of(raw)}")
        if table is None:
            table = _table(raw, form, where)
        if missing := [name for name in (*table.texts, table.label) if name not in raw]:
            raise InputError(f"{where}: no column {missing[0]}, which the first row has: add it, or remove the row")
        row, fault = _row(raw, table, where)
        unused |= raw.keys() - {*table.texts, table.label}
        tally.used += 1
        if tally.keep(not fault, fault):
            result.append(row)
    if table is None:
        raise InputError("no rows: the file is empty")
    return table.form, result, unused


def _table(raw: Row, form: str | None, where: str) -> Table:
    """What the columns of the first row say. Raises InputError if they leave the form open."""
    names = [(f, texts) for f, texts in [*NAMES, ("entailment", PAIR), ("similarity", PAIR)] if {*texts} <= raw.keys()]
    names = [one for one in names if not any({*one[1]} < {*other} for _, other in names)]
    if form is None and "gold_label" in raw:  # the files of SNLI and MNLI
        names = [one for one in names if one != ("similarity", PAIR)]
    names = [one for one in names if form in (None, one[0])]
    if len(names) > 1 and {texts for _, texts in names} == {PAIR}:
        raise InputError(
            f"{where}: sentence1 and sentence2 may be those of entailment (RTE, WNLI) or of similarity (MRPC): "
            "give --form entailment or --form similarity"
        )
    if len(names) != 1:
        known = "; ".join(f"{name}: {', '.join((*texts, 'label'))}" for name, texts in COLUMNS.items())
        problem = "of several forms" if names else f"of no form{f' {form}' if form else ''}"
        raise InputError(f"{where}: the columns {', '.join(raw)} are {problem}; rename them ({known})")
    ((found, texts),) = names
    labels = [name for name in (*LABELS, *(("answer",) if found == "choice" else ())) if name in raw]
    if len(labels) != 1:
        problem = f"several labels, {' and '.join(labels)}" if labels else "no column label"
        raise InputError(f"{where}: {problem}; one column must be named label")
    return Table(found, texts, labels[0])


def _row(raw: Row, table: Table, where: str) -> tuple[Row, str]:
    """The row in its form, and the reason to drop it or ""."""
    values = [raw[name] for name in table.texts]
    if table.form == "choice":
        values = [*values[:-1], from_json(values[-1])]
        _check_choices(values[-1], table, where)
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    for text in texts:
        if not isinstance(text, str) and not is_absent(text):
            raise InputError(f"{where}: {kind_of(text)} in {' or '.join(table.texts)}, which must hold text")
    if any(is_absent(text) or not text.strip() for text in texts):
        return {}, "with an empty text"
    if table.form != "choice":
        label = _label(raw[table.label], table, where)
        return {**dict(zip(COLUMNS[table.form], values, strict=True)), "label": label}, "" if label else NO_GOLD
    if len(set(values[-1])) < len(values[-1]):
        return {}, "with equal choices"
    index = _index(raw[table.label], len(values[-1]), table, where)
    return {"context": "\n".join(values[:-1]), "choices": values[-1], "label": index}, "" if index >= 0 else NO_GOLD


def _check_choices(choices: Any, table: Table, where: str) -> None:
    if not isinstance(choices, list) or len(choices) < 2:
        raise InputError(f"{where}: {table.texts[-1]} is {kind_of(choices)}; it must be a list of two or more texts")


def _label(value: Any, table: Table, where: str) -> str:
    """A label as text; "" for a row without one, which is null, empty, "-" or, of entailment, -1."""
    if isinstance(value, bool):
        return str(value).lower()
    if is_absent(value):
        return ""
    if isinstance(value, float):
        if value != int(value):
            raise InputError(f"{where}: {table.label} is {value}, a number and no class: regression is not supported")
        value = int(value)
    if not isinstance(value, int | str):
        raise InputError(f"{where}: {table.label} is {kind_of(value)}; it must be a text or a whole number")
    text = str(value).strip()
    if text == "-1" and table.form != "entailment":
        raise InputError(
            f"{where}: {table.label} is -1, which may be a class or, in GLUE's test files, mean that there is no label: "
            "rename the class, or remove these rows"
        )
    return "" if text in ("-", "-1") else text


def _index(value: Any, count: int, table: Table, where: str) -> int:
    """The index of the right choice; -1 for a row without one, which is null or empty."""
    if is_absent(value) or value == "":
        return -1
    text = str(value).strip()
    index = LETTERS.find(text) if len(text) == 1 and text.isalpha() else int(text) if text.isdecimal() else -1
    if isinstance(value, bool) or not 0 <= index < count:
        allowed = f"an index from 0 to {count - 1}, or a letter from A to {LETTERS[min(count, len(LETTERS)) - 1]}"
        raise InputError(f"{where}: {table.label} is {value}; it must be {allowed}")
    return index
