"""Pretraining on the documents in the order of their file, for one epoch. The stage itself shuffles them."""

from datasets import Dataset

import stages.common.training
from stages.common.options import TrainingOptions
from stages.common.stage import main
from stages.pretrain import work


def in_order(dataset: Dataset, options: TrainingOptions) -> Dataset:
    """The rows as they are, in place of `in_batches`, which shuffles them."""
    return dataset


if __name__ == "__main__":
    stages.common.training.in_batches = in_order
    main("pretrain", work, "experiments.pretraining.in_order")
