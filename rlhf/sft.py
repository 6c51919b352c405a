"""The loss of pretraining and SFT, computed with `rlhf.engine.logprobs`."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from trl import SFTConfig, SFTTrainer

from rlhf.engine import next_token_logprobs, own_share, packed_index, process_count, selected_states


class PackedSFTTrainer(SFTTrainer):
    """TRL's SFTTrainer with a faster loss: rows are packed without padding, and logits are computed at labels only.

    It omits the entropy and the accuracy that TRL logs at every step. TRL computes any other loss than the default.
    """

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean cross-entropy, in nats, of tokens whose label is not -100, without the first of each row. Scalar."""
        other = (
            self.label_smoother
            or self.compute_loss_func
            or self.aux_loss_enabled
            or cast(SFTConfig, self.args).loss_type != "nll"
        )
        if other or return_outputs or inputs.keys() != {"input_ids", "attention_mask", "labels"}:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        attention_mask, learned = inputs["attention_mask"], inputs["labels"] != -100
        learned[:, 0] = False  # nothing predicts the first token
        tokens = learned.sum() if num_items_in_batch is None else num_items_in_batch
        learned, attention_mask, input_ids = own_rows(learned, attention_mask, inputs["input_ids"])
        index = packed_index(learned, attention_mask)
        with self.accelerator.autocast():
            states = selected_states(model, input_ids, attention_mask, index - 1)
            logprobs = next_token_logprobs(states, 1.0)
        # every process has the whole batch and computes its own rows, and gradients are averaged over processes
        return -logprobs.sum() / tokens * process_count()


def own_rows(learned: Tensor, *tensors: Tensor) -> list[Tensor]:
    """This process's rows of a batch. If it has none, the first row, of which it learns nothing."""
    share = own_share(len(learned))
    if share.start == share.stop:  # the model must run in every process
        return [torch.zeros_like(learned[:1]), *(tensor[:1] for tensor in tensors)]
    return [tensor[share] for tensor in (learned, *tensors)]
