"""Hidden states and logits of a batch at selected tokens.

Shapes: B rows of L tokens, padded on either side; N tokens without padding, row after row; S selected ones of these; W
hidden width; V vocabulary size. `index` (S,) selects tokens by their position among the N tokens, see
`rlhf.engine.logprobs.packed_index`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.engine.passes import Pass, last_logits_only, packed_pass, padded_pass
from rlhf.engine.processes import call_inside
from rlhf.engine.support import has_plain_head, supports_packing, supports_pruning
from rlhf.engine.vocabulary import only_tokens


@dataclass
class SelectedStates:
    """Hidden states and logits of a causal language model at the selected tokens of a batch."""

    ids: Tensor  # (N,) all tokens
    index: Tensor  # (S,) indices of the selected ones
    hidden: Tensor  # (S, W) their last hidden states
    logits: Callable[[slice], Tensor]  # computes the logits (tokens of the slice, V) of a slice of the S tokens


def selected_states(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, index: Tensor, prefix_row: Tensor | None = None
) -> SelectedStates:
    """The states of a causal language model at tokens `index` (S,) of a batch (B, L), from one forward pass.

    For `prefix_row` see `hidden_states`. The model may be wrapped by DistributedDataParallel.
    """
    return call_inside(model, _selected_states, input_ids, attention_mask, index, prefix_row)


def _selected_states(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, index: Tensor, prefix_row: Tensor | None
) -> SelectedStates:
    ids = input_ids[attention_mask.bool()]
    if not has_plain_head(model):
        output, select = _run(model, model, input_ids, attention_mask, index, prefix_row, output_hidden_states=True)
        all_logits = only_tokens(model, select(output.logits))
        return SelectedStates(ids, index, select(output.hidden_states[-1]), lambda part: all_logits[part])
    hidden = hidden_states(model, input_ids, attention_mask, index, prefix_row)
    head = model.get_output_embeddings()
    return SelectedStates(ids, index, hidden, lambda part: only_tokens(model, head(hidden[part])))


def last_states(model: PreTrainedModel, input_ids: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
    """The hidden states (B, W) and the logits (B, V) at the last token of each row.

    `inputs` are passed to the model.
    """
    if has_plain_head(model):
        hidden = model.base_model(input_ids=input_ids, **inputs).last_hidden_state[:, -1]
        return hidden, only_tokens(model, model.get_output_embeddings()(hidden))
    output = model(input_ids=input_ids, output_hidden_states=True, **inputs, **last_logits_only(model))
    return output.hidden_states[-1][:, -1], only_tokens(model, output.logits[:, -1])


def hidden_states(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, index: Tensor, prefix_row: Tensor | None = None
) -> Tensor:
    """The last hidden states (S, W) at tokens `index` (S,) of a batch (B, L).

    `prefix_row[i]` is a row that may begin with the same tokens as row i, for example the first completion of the same
    prompt; for that row j itself, `prefix_row[j]` is j. The shared prefix is computed once. The result is the same up
    to rounding. A model that does not support packing computes every row whole.
    """
    output, select = _run(model.base_model, model, input_ids, attention_mask, index, prefix_row)
    return select(output.last_hidden_state)


def _run(
    module: nn.Module,
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    index: Tensor,
    prefix_row: Tensor | None,
    **kwargs: Any,
) -> Pass:
    """A packed pass of `module` (`model`, its wrapper or a part) if `model` supports it, else a padded one."""
    if not supports_packing(model):
        return padded_pass(module, input_ids, attention_mask, index, **kwargs)
    prune = partial(supports_pruning, model)
    return packed_pass(module, input_ids, attention_mask, index, prefix_row, prune, **kwargs)
