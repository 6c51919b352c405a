"""The loss of pretraining and SFT is the mean cross-entropy of the labelled tokens, computed for these only."""

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig

from stages.common.options import TrainingOptions
from stages.common.training import SavingSFTTrainer, trainer_arguments

ROWS = [
    {"input_ids": [5, 6, 7, 8, 0], "labels": [-100, -100, 7, 8, 0]},
    {"input_ids": [9, 10, 0], "labels": [9, 10, 0]},
    {"input_ids": [11, 12], "labels": [-100, 12]},
]


def trainer_of(policy, tokenizer, folder, **arguments) -> SavingSFTTrainer:
    # transformers warns of the old name of this argument, gradient_checkpointing, unless the new one is set
    options = TrainingOptions(run=str(folder), batch_size=3, trainer={"activation_checkpointing": False, **arguments})
    return SavingSFTTrainer(
        model=policy, args=trainer_arguments(SFTConfig, options, folder), processing_class=tokenizer,
        train_dataset=Dataset.from_list(ROWS),
    )  # fmt: skip


def batch_of(trainer) -> dict[str, torch.Tensor]:
    (batch,) = trainer.get_train_dataloader()
    return batch


def mean_loss(policy) -> torch.Tensor:
    """The definition: one unpadded row at a time, every token that has a label after the first."""
    losses = []
    for row in ROWS:
        distributions = policy(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(dim=-1)
        losses += [-distributions[t - 1, label] for t, label in enumerate(row["labels"]) if t and label != -100]
    assert len(losses) == 6
    return torch.stack(losses).mean()


def gradients(policy, loss) -> list[torch.Tensor]:
    policy.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in policy.parameters() if p.grad is not None]


@pytest.mark.parametrize("num_items_in_batch", [None, 6, torch.tensor(12)])
def test_the_loss_and_its_gradient_are_those_of_each_row_alone(policy, tokenizer, tmp_path, num_items_in_batch):
    trainer = trainer_of(policy, tokenizer, tmp_path)
    expected = mean_loss(policy) * (1 if num_items_in_batch is None else 6 / num_items_in_batch)
    loss = trainer.compute_loss(policy, batch_of(trainer), num_items_in_batch=num_items_in_batch)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients(policy, loss), gradients(policy, expected), atol=1e-5, rtol=1e-4)


def test_logits_are_computed_before_labelled_tokens_only(policy, tokenizer, tmp_path):
    shapes = []
    policy.get_output_embeddings().register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    trainer = trainer_of(policy, tokenizer, tmp_path)
    trainer.compute_loss(policy, batch_of(trainer))  # probes the model
    shapes.clear()
    trainer.compute_loss(policy, batch_of(trainer))
    assert [shape[0] for shape in shapes if shape[0]] == [6]


@pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated:FutureWarning")
@pytest.mark.parametrize("arguments", [{"label_smoothing_factor": 0.5}, {"loss_type": "dft"}])
def test_another_configured_loss_is_computed(policy, tokenizer, tmp_path, arguments):
    plain, other = (trainer_of(policy, tokenizer, tmp_path, **changes) for changes in ({}, arguments))
    losses = [trainer.compute_loss(policy, batch_of(trainer)).item() for trainer in (plain, other)]
    assert losses[1] != pytest.approx(losses[0], rel=0.01)
