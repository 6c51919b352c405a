"""The loss of pretraining and SFT, from the project's one definition of a log-probability."""

from typing import Any, cast

from torch import nn
from trl import SFTConfig, SFTTrainer

from rlhf.engine import next_token_logprobs, packed_index, selected_states


class PackedSFTTrainer(SFTTrainer):
    """TRL's SFTTrainer without padding, with logits at learned tokens only, a bounded number at a time.

    It skips the entropy and the accuracy that TRL computes at every step. If any other loss is configured, TRL computes it.
    """

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean cross-entropy of the tokens with a label (not -100), the first of each row excepted. Scalar, nats."""
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
        # the count is over all processes; their gradients are averaged
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return -logprobs.sum() / num_items_in_batch * processes
