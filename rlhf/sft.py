"""The loss of pretraining and SFT, computed with `rlhf.engine.logprobs`."""

from typing import Any, cast

from torch import nn
from trl import SFTConfig, SFTTrainer

from rlhf.engine import next_token_logprobs, packed_index, selected_states


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
        index = packed_index(learned, attention_mask)
        with self.accelerator.autocast():
            states = selected_states(model, inputs["input_ids"], attention_mask, index - 1)
            logprobs = next_token_logprobs(states, 1.0)
        if num_items_in_batch is None:
            return -logprobs.mean()
        # num_items_in_batch counts the tokens of all processes, and gradients are averaged over processes
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return -logprobs.sum() / num_items_in_batch * processes
