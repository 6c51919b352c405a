"""The loss of pretraining and SFT, from the project's one definition of a log-probability."""

from trl import SFTTrainer

from rlhf.forward import states
from rlhf.logprobs import next_logprobs, numbered


class LeanSFTTrainer(SFTTrainer):
    """TRL's SFTTrainer without padding, and with logits of what is learned only, never all of them at a time.

    Entropy and accuracy, which TRL computes at every step, are spared as well. Whatever asks for another loss than the
    plain one gets TRL's.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The mean cross-entropy of a token that has a label (not -100), each after the first of its row. Scalar, nats."""
        other = self.label_smoother or self.compute_loss_func or self.aux_loss_enabled or self.args.loss_type != "nll"
        if other or return_outputs or inputs.keys() != {"input_ids", "attention_mask", "labels"}:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        attention_mask, learned = inputs["attention_mask"], inputs["labels"] != -100
        learned[:, 0] = False  # no token is before the first
        chosen = numbered(learned, attention_mask)
        with self.accelerator.autocast():
            logprobs = next_logprobs(states(model, inputs["input_ids"], attention_mask, chosen - 1), 1.0)
        if num_items_in_batch is None:
            return -logprobs.mean()
        # counted over all processes, between which gradients are averaged
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return -logprobs.sum() / num_items_in_batch * processes
