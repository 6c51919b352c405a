"""Training a reward model on rankings of K completions of one prompt.

    loss(theta) = -1 / C(K, 2) * E[ log sigmoid( r(x, y_w) - r(x, y_l) ) ]        InstructGPT (arXiv 2203.02155), equation 1

All C(K, 2) pairs of a prompt are one batch element. So the model computes K completions per prompt, not 2 C(K, 2), and
computes the shared prompt once. Shapes: B prompts with at most K completions each; rows of L tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput
from trl import RewardTrainer

from rlhf.classifiers import Scorer
from rlhf.engine import (
    call_inside,
    gathered_weights,
    hidden_states,
    own_share,
    process_count,
    supports_packing,
    to_device,
    total,
)
from rlhf.tokens import own_batches, pad

INPUTS = ("input_ids", "attention_mask", "ranks")  # of a batch, see RankingCollator


def better_pairs(ranks: Tensor) -> Tensor:
    """(B, K, K) bool: True at [b, i, j] where completion i of prompt b is ranked better than j.

    `ranks` (B, K) has 0 for the best and NaN where a prompt has fewer than K completions. A tie gives no pair.
    """
    return ranks[:, :, None] < ranks[:, None, :]  # a comparison with NaN is False


def ranking_loss(scores: Tensor, ranks: Tensor) -> Tensor:
    """The mean over prompts of the mean over their pairs of -log sigmoid(better score - worse score). Scalar.

    `scores` (B, K) are ignored where `ranks` (B, K) is NaN. Ties are not pairs; every prompt must have a pair.
    """
    better = better_pairs(ranks)
    losses = -logsigmoid(scores[:, :, None] - scores[:, None, :])
    return (losses.where(better, 0.0).sum(dim=(1, 2)) / better.sum(dim=(1, 2))).mean()


def pair_accuracy(scores: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """For each prompt, the number of correctly ordered pairs and the number of pairs: two tensors (B,).

    A pair with equal scores counts as half correct. The ratio of the two sums is the accuracy; keeping them per prompt
    allows a bootstrap over prompts.
    """
    better = better_pairs(ranks)
    difference = scores[:, :, None] - scores[:, None, :]
    correct = (difference > 0).double() + 0.5 * (difference == 0).double()
    return correct.where(better, 0.0).sum(dim=(1, 2)), better.sum(dim=(1, 2))


@dataclass
class RankingCollator:
    """Collates prompts with different numbers of completions into one right-padded batch.

    >>> RankingCollator(pad_token_id=0)([{"sequences": [[5, 6], [5]], "ranks": [0, 1]},
    ...                                  {"sequences": [[7, 8], [7], [9]], "ranks": [0, 1, 1]}])
    {'input_ids': tensor([[5, 6], [5, 0], [7, 8], [7, 0], [9, 0]]),
     'attention_mask': tensor([[1, 1], [1, 0], [1, 1], [1, 0], [1, 0]]),
     'ranks': tensor([[0., 1., nan], [0., 1., 1.]])}
    """

    pad_token_id: int

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        sequences = [ids for example in examples for ids in example["sequences"]]
        input_ids, attention_mask = pad(sequences, self.pad_token_id, "right")
        ranks = pad_ranks([example["ranks"] for example in examples])
        return {"input_ids": input_ids, "attention_mask": attention_mask, "ranks": ranks}


def pad_ranks(ranks: Sequence[Sequence[float]]) -> Tensor:
    """The ranks of B prompts as a tensor (B, K), padded with NaN where a prompt has fewer than K completions."""
    rows = [torch.tensor(row, dtype=torch.float) for row in ranks]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)


def by_prompt(scores: Tensor, ranks: Tensor) -> Tensor:
    """The flat scores of all completions, prompt after prompt, reshaped to (B, K); 0 where `ranks` (B, K) is NaN."""
    return torch.zeros_like(ranks).masked_scatter(~ranks.isnan(), scores)


def score_completions(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, ranks: Tensor
) -> SequenceClassifierOutput:
    """The classifier's output for right-padded rows, one for each completion in `ranks` (B, K), prompt after prompt.

    `logits` is (rows, 1). The prompt that the completions of a row share is computed once. A model that does not
    support packing computes every row whole, as in TRL. The model may be wrapped by DistributedDataParallel.
    """
    return call_inside(model, _score_completions, input_ids, attention_mask, ranks)


def _score_completions(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, ranks: Tensor
) -> SequenceClassifierOutput:
    plain = isinstance(model, PreTrainedModel) and isinstance(getattr(model, "score", None), nn.Linear)
    if not plain or not supports_packing(cast(PreTrainedModel, model)):
        return model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    counts = (~ranks.isnan()).sum(dim=1)
    prefix_row = (counts.cumsum(dim=0) - counts).repeat_interleave(counts)  # the first completion of the same prompt
    last = attention_mask.sum(dim=1).cumsum(dim=0) - 1
    hidden = hidden_states(cast(PreTrainedModel, model), input_ids, attention_mask, last, prefix_row)
    return SequenceClassifierOutput(logits=cast(nn.Linear, model.score)(hidden))


def own_prompts(input_ids: Tensor, attention_mask: Tensor, ranks: Tensor) -> tuple[tuple[Tensor, ...], float]:
    """This process's prompts of a batch, and the weight of their mean loss, for gradients averaged over processes.

    A process without a prompt gets the first one, with weight 0: the model must run in every process.
    """
    prompts, share = len(ranks), own_share(len(ranks))
    weight = (share.stop - share.start) * process_count() / prompts
    if weight == 0:
        share = slice(0, 1)
    ends = (~ranks.isnan()).sum(dim=1).cumsum(dim=0).tolist()
    rows = slice(ends[share.start - 1] if share.start else 0, ends[share.stop - 1])
    return (input_ids[rows], attention_mask[rows], ranks[share]), weight


class RankingRewardTrainer(RewardTrainer):
    """TRL's RewardTrainer for datasets with the columns `sequences` (K lists of token ids) and `ranks` (K numbers)."""

    model: nn.Module

    def __init__(self, *, processing_class: PreTrainedTokenizerBase, **kwargs: Any):
        kwargs.setdefault("data_collator", RankingCollator(processing_class.pad_token_id))
        super().__init__(processing_class=processing_class, **kwargs)

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset  # already token ids, the same as in PPO: TRL must not tokenise them again

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = cast(Any, ["sequences", "ranks"])

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The ranking loss, a scalar, with the model's output if `return_outputs`. Logs the pair accuracy."""
        (input_ids, attention_mask, ranks), weight = own_prompts(*(inputs[name] for name in INPUTS))
        with self.accelerator.autocast():
            outputs = score_completions(model, input_ids, attention_mask, ranks)
        scores = by_prompt(cast(Tensor, outputs.logits).squeeze(1).float(), ranks)
        loss = ranking_loss(scores, ranks) * weight
        correct, pairs = (total(count.sum() * (weight > 0)) for count in pair_accuracy(scores.detach(), ranks))
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["accuracy"].append((correct / pairs).item())
        return (loss, outputs) if return_outputs else loss


def score_sequences(scorer: Scorer, sequences: Sequence[list[int]], pad_id: int, batch_size: int = 64) -> Tensor:
    """The score at the last token of each sequence (prompt and completion), as a tensor (B,) on the CPU.

    The processes of a run share the batches, with all weights of the model on each of them.
    """
    scores = torch.zeros(len(sequences))
    device = next(scorer.parameters()).device
    with gathered_weights(scorer), torch.no_grad():
        for rows in own_batches(sequences, batch_size):
            input_ids, attention_mask = (
                to_device(t, device) for t in pad([sequences[i] for i in rows], pad_id, "right")
            )
            last = attention_mask.sum(dim=1).cumsum(dim=0) - 1
            scores[rows] = scorer(input_ids, attention_mask, last).cpu()
    return total(scores)


def set_normalisation(scorer: Scorer, mean: float, std: float) -> None:
    """Makes the model return (score - mean) / std. Its configuration, which is saved, holds the two numbers.

    InstructGPT shifts scores so that demonstrations have mean 0 (section 3.5). The division makes the options of PPO
    independent of the scale of the reward model.
    """
    old_mean, old_std = getattr(scorer.config, "score_mean", 0.0), getattr(scorer.config, "score_std", 1.0)
    scorer.config.score_mean, scorer.config.score_std = old_mean + old_std * mean, old_std * std
