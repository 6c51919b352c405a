"""A supervised task, as GPT-1 learned it: the pretrained model with a linear head, trained on rows with labels.

make task TASK=topic
make task TASK=snli_train.jsonl
"""

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any, cast

from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed

from data.shapes.supervised import supervised_rows
from data.sources import read_source
from data.world.supervised import FORM_OF, supervised
from rlhf import InputError
from rlhf.evaluate import Estimate, ratio_estimate
from rlhf.models import context_length
from rlhf.option import did_you_mean
from rlhf.rows import Row, Tally, write_rows
from rlhf.rows.supervised import COLUMNS, Form
from rlhf.run.files import write_text
from rlhf.task import (
    TaskTrainer,
    add_special_tokens,
    new_task_model,
    predict,
    save_task_model,
    task_dataset,
)
from rlhf.tokens import load_tokenizer
from stages.common.console import say
from stages.common.preview import say_if_too_long, say_tokens
from stages.common.stage import Stage, main
from stages.common.task_options import TaskOptions
from stages.common.training import Resumable, length_remedy, new_trainer, row_limit, train, trainer_arguments

WORLD_ROWS = 1000  # training rows of a task of the world
PREDICTIONS, REPORT = "predictions.jsonl", "report.txt"
Splits = tuple[list[Row], list[Row]]  # training rows, held-out rows


class SavingTaskTrainer(Resumable, TaskTrainer):
    """The resumable trainer of a supervised task."""


def work(options: TaskOptions, stage: Stage) -> dict[str, Any]:
    """Writes the classifier, the tokenizer and the predictions; returns row counts, metrics and the log."""
    tally, test_tally = Tally(), Tally()
    form, rows, test_rows = read(options, stage, tally, test_tally)
    names = number_labels(form, rows, test_rows, test_tally)

    arguments = trainer_arguments(TrainingArguments, options, stage.partial)
    source = stage.model(options.model, "pretrain")
    tokenizer = load_tokenizer(source)
    add_special_tokens(tokenizer)
    set_seed(options.seed)
    model = new_task_model(source, tokenizer, len(names), options.layers, options.scratch)
    stage.check_saving(partial(save_task_model, model, form=form, names=names), tokenizer.save_pretrained)
    longest = row_limit(options, context_length(model))
    dataset = task_dataset(rows, form, tokenizer, longest, tally)
    test = task_dataset(test_rows, form, tokenizer, longest, test_tally)
    say(f"{form}; {tally}, {options.epochs:g} epochs; test: {test_tally}")
    say_if_too_long(tally, length_remedy(options, context_length(model)))
    show(dataset[0]["sequences"], tokenizer)

    set_seed(options.seed)
    trainer = new_trainer(
        SavingTaskTrainer, options, model=model, arguments=arguments, dataset=dataset, tokenizer=tokenizer
    )
    trainer.form, trainer.lm_coef = form, options.lm_coef
    history = train(trainer, stage, options)
    model.eval()
    save_task_model(model, stage.partial, form, names)
    tokenizer.save_pretrained(stage.partial)

    predicted = predict(model, form, test, tokenizer)
    answered = [answer(test_rows[i], p, names) for i, p in zip(test["row"], predicted, strict=True)]
    write_rows(stage.partial / PREDICTIONS, answered)
    common = Counter(row["label"] for row in rows).most_common(1)[0][0]
    metrics = measure(answered, common if form == "choice" else names[common])
    write_text(stage.partial / REPORT, in_words(metrics, len(answered)) + "\n")
    say(in_words(metrics, len(answered)))
    counts = {"rows": tally.as_dict(), "test_rows": test_tally.as_dict()}
    return {"form": form, "labels": names, **counts, "metrics": metrics, "history": history}


# --- rows -------------------------------------------------------------------------------------------------------------


def read(options: TaskOptions, stage: Stage, tally: Tally, test_tally: Tally) -> tuple[Form, list[Row], list[Row]]:
    """The form, the rows to train on and the held-out ones, of a task of the world or of files.

    Raises InputError if TASK names neither, and for files without usable rows.
    """
    name = options.task or ""
    if name in FORM_OF:
        if options.form or options.test:
            raise InputError(f"form and test are for files, and {name} is a task of the world: leave them out")
        rows = list(tally.count(supervised(name, options.rows or WORLD_ROWS, options.seed)))
        # the same for all seeds, so that results with several seeds can be compared
        return cast(Form, FORM_OF[name]), rows, list(test_tally.count(supervised(name, options.test_rows, 0, True)))
    if not name or ("." not in name and "/" not in name and not stage.run.path(name).exists()):
        known = did_you_mean(name, FORM_OF) if name else ""
        raise InputError(f"TASK={name}: no such task{known}; there are {', '.join(FORM_OF)}, or name a file of rows")
    form, rows = read_file(name, options.form, stage, tally)
    rng = random.Random(f"task {options.seed}")
    if options.test:
        _, held_out = read_file(options.test, form, stage, test_tally)
        rng.shuffle(rows)
        rng.shuffle(held_out)
    else:
        rows, held_out = hold_out(rows, form, options.test_share, options.test_rows, rng)
    rows, held_out = rows[: options.rows], held_out[: options.test_rows]
    tally.used, test_tally.used = len(rows), len(held_out)
    return cast(Form, form), rows, held_out


def read_file(name: str, form: str | None, stage: Stage, tally: Tally) -> tuple[str, list[Row]]:
    """The form and the usable rows of a file, a folder or a hub data set, which becomes an input of the stage."""
    stage.input(name)
    form, rows, unused = supervised_rows(read_source(name, None, "line"), form, tally)
    if unused:
        say(f"columns that are not used: {', '.join(map(str, sorted(unused)))}")
    if not rows:
        raise InputError(f"{name}: no usable rows ({tally})")
    return form, rows


def hold_out(rows: Sequence[Row], form: str, share: float, most: int, rng: random.Random) -> Splits:
    """Training rows and held-out rows, which have no first text in common, in random order. One is held out at least.

    So all hypotheses of a premise, and all questions on an article, are on the same side.
    """
    column = COLUMNS[cast(Form, form)][0]
    texts = list(dict.fromkeys(row[column].partition("\n")[0] for row in rows))
    rng.shuffle(texts)
    chosen = set(texts[: max(1, min(round(share * len(texts)), most))])
    parts: Splits = ([], [])
    for row in rows:
        parts[row[column].partition("\n")[0] in chosen].append(row)
    for part in parts:
        rng.shuffle(part)
    if not parts[0]:
        raise InputError(f"all rows have the same {column}, so none can be held out: name held-out rows with --test")
    return parts


def number_labels(form: Form, rows: list[Row], test_rows: list[Row], test_tally: Tally) -> list[str]:
    """The labels' names in order; replaces the label of each row by its index, in place. For choices one, the score.

    Held-out rows with a label that no training row has are dropped. Raises InputError if there is only one label.
    """
    if form == "choice":
        return ["score"]
    labels = {row["label"] for row in rows}
    numeric = all(label.isdecimal() for label in labels)
    names = sorted(labels, key=lambda label: (int(label) if numeric else 0, label))
    if len(names) < 2:
        raise InputError(f"every training row has the label {names[0]!r}: two are needed, or another file")
    test_rows[:] = [row for row in test_rows if test_tally.keep(row["label"] in labels, "with an unknown label")]
    if not test_rows:
        raise InputError(f"no held-out row has one of the labels {', '.join(names)}: name others with --test")
    for row in (*rows, *test_rows):
        row["label"] = names.index(row["label"])
    return names


# --- what the stage shows ---------------------------------------------------------------------------------------------


def show(sequences: list[list[int]], tokenizer: PreTrainedTokenizerBase) -> None:
    """Prints the sequences of the first row as the model sees them."""
    say(f"first row, {sum(map(len, sequences)):,} tokens:")
    for ids in islice(sequences, 4):
        say_tokens(tokenizer, ids, max_lines=4)


def answer(row: Row, probabilities: list[float], names: list[str]) -> Row:
    """A held-out row with the prediction and the probabilities, of labels by name or of choices in order."""
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    rounded = [round(p, 6) for p in probabilities]
    if "choices" in row:
        return {**row, "predicted": best, "probabilities": rounded}
    by_name = dict(zip(names, rounded, strict=True))
    return {**row, "label": names[row["label"]], "predicted": names[best], "probabilities": by_name}


def measure(rows: Sequence[Row], most_common: int | str) -> dict[str, float]:
    """The accuracy on held-out rows with its 95 % interval, and that of always answering the most common label."""
    accuracy = ratio_estimate([float(row["predicted"] == row["label"]) for row in rows])
    return {**accuracy.named("accuracy"), "majority": sum(row["label"] == most_common for row in rows) / len(rows)}


def in_words(metrics: dict[str, float], count: int) -> str:
    """The accuracies of `measure` on `count` rows as a sentence."""
    accuracy = Estimate(metrics["accuracy"], metrics["accuracy_low"], metrics["accuracy_high"])
    return f"accuracy {accuracy} on {count:,} held-out rows; always the most common label: {metrics['majority']:.3f}"


if __name__ == "__main__":
    main("task", work)
