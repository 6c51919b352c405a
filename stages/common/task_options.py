"""The options of `make task`, which fine-tunes a language model on a supervised task as GPT-1 was."""

from dataclasses import dataclass
from pathlib import Path

from rlhf.option import option
from rlhf.rows.supervised import Form
from stages.common.options import TrainingOptions


@dataclass
class TaskOptions(TrainingOptions):
    task: str | None = option(
        None,
        "a task of the world (topic, entailment, similarity, choice), or a file or hub data set of rows with labels",
    )
    form: Form | None = option(None, "form of the rows of a file; by default its columns decide")
    model: str | None = option(None, "language model to start from; by default the result of `make pretrain`")
    lm_coef: float = option(
        0.5, "lambda, the weight of the language model's loss on the task's texts (GPT-1: 0.5); 0: none", at_least=0
    )
    layers: int | None = option(
        None,
        "layers taken from the model, beside its embeddings; the others are new; none: all",
        at_least=0,
        at_most=1000,
    )
    scratch: bool = option(False, "start from random weights: only the model's size and tokenizer are used")
    epochs: float = option(3.0, "epochs over the rows", above=0, at_most=1000)
    rows: int | None = option(
        None,
        "maximum number of training rows; none: all of a file, and 1,000 of a task of the world",
        at_least=1,
        at_most=10**9,
    )
    test: str | None = option(None, "file or hub data set of held-out rows; by default some rows are held out")
    test_share: float = option(0.1, "share of the file's texts that is held out without a test", above=0, below=1)
    test_rows: int = option(400, "maximum number of held-out rows", at_least=1, at_most=10**7)

    @property
    def name(self) -> str:
        """The name of the task: that of the world's, or of its file up to the first dot."""
        return Path(self.task or "").name.partition(".")[0].partition(":")[0] or "task"
