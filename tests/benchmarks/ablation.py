"""Switches one optimisation of our side off, or on if it is off by default, by name, to measure what it gains.

Each function replaces a name in the module that reads it, for the rest of the process. Functions that a module imports
are replaced in that module, not in the one that defines them.
"""

import torch
from transformers import PreTrainedModel

from rlhf import rollout, trainer
from rlhf.engine import attention, decoding, forward, kernels, last_layer, packing, passes
from rlhf.engine.gpu import fixed_decoding, transfer, varlen
from rlhf.run import placement, state


def apply(without: str, extra: str = "") -> None:
    """Switches `without` off and `extra` on for the rest of this process; an empty name is none.

    Raises KeyError for an unknown name.
    """
    if without:
        ABLATIONS[without]()
    if extra:
        EXTRAS[extra]()


# --- arithmetic and memory --------------------------------------------------------------------------------------------


def _onednn_products() -> None:
    kernels.use_onednn_products = lambda: False


def _prepacked_weights() -> None:
    kernels._can_prepack = lambda dtype: False


def _kept_memory() -> None:
    kernels.keep_freed_memory = lambda: None


def _sigmoid_gelu() -> None:
    kernels.TANH_GELU = ()


def _fused_adamw() -> None:
    state.AdamW = lambda *args, fused, **kwargs: torch.optim.AdamW(*args, **kwargs)


def _rounded_frozen_weights() -> None:
    placement._round_matrices = lambda model, dtype: None


# --- forward passes ---------------------------------------------------------------------------------------------------


def _attention_by_products() -> None:
    attention.MAX_PRODUCT_LENGTH = 0


def _attention_groups() -> None:
    packing.MAX_GROUPS = 1


def _packing() -> None:
    def never_packed(model: PreTrainedModel) -> bool:
        kernels.optimize(model)
        return False

    forward.supports_packing = never_packed


def _shared_prefixes() -> None:
    passes.shared_prefix_lengths = lambda input_ids, attention_mask, prefix_row: torch.zeros_like(prefix_row)


def _pruned_last_layer() -> None:
    passes.MAX_PRUNED_SHARE = 0.0


def _rounded_shapes() -> None:
    last_layer.TOKEN_MULTIPLE = packing.LENGTH_MULTIPLE = passes.ROW_MULTIPLE = decoding.ROW_MULTIPLE = 1


def _selected_logits() -> None:
    selected_states = forward.selected_states

    def with_all_logits(model, input_ids, attention_mask, index, prefix_row=None):
        everywhere = torch.arange(int(attention_mask.sum()))
        states = selected_states(model, input_ids, attention_mask, everywhere, prefix_row)
        logits = states.logits(slice(None))[index]
        return forward.SelectedStates(states.ids, index, states.hidden[index], lambda part: logits[part])

    rollout.selected_states = with_all_logits


def _sampled_logprobs() -> None:
    """Another pass computes the log-probabilities that are known from sampling."""
    score_responses = rollout.score_responses

    def with_another_pass(responses, *, reference, chunk, temperature, **kwargs):
        with torch.no_grad():
            for start in range(0, len(responses.mask), chunk):
                # the reference has the size of the policy, which is not among the arguments
                rollout.response_logprobs(reference, responses.select(slice(start, start + chunk)), temperature)
        return score_responses(responses, reference=reference, chunk=chunk, temperature=temperature, **kwargs)

    trainer.score_responses = with_another_pass


# --- decoding ---------------------------------------------------------------------------------------------------------


def _dropped_rows() -> None:
    decoding.MAX_KEPT_SHARE = 0.0


def _block_cache() -> None:
    """Decoding uses transformers' cache and, instead of one mask for its blocks, the mask that the model makes."""
    decoding.supports_packing = lambda model: False


def _distinct_prompts() -> None:
    decoding.distinct_prompts = lambda input_ids, attention_mask: (input_ids, attention_mask, None)


# --- on a GPU only ----------------------------------------------------------------------------------------------------


def _check_interval() -> None:
    """Finished rows are looked for after every token, as on a CPU."""
    decoding.CHECK_EVERY = 1


def _pinned_transfers() -> None:
    transfer.PINNED = False


def _fixed_decoding() -> None:
    fixed_decoding.FIXED_SHAPES = True


def _varlen_attention() -> None:
    varlen.VARLEN = True


ABLATIONS = {
    "onednn-products": _onednn_products,
    "prepacked-weights": _prepacked_weights,
    "kept-memory": _kept_memory,
    "sigmoid-gelu": _sigmoid_gelu,
    "fused-adamw": _fused_adamw,
    "rounded-frozen-weights": _rounded_frozen_weights,
    "attention-by-products": _attention_by_products,
    "attention-groups": _attention_groups,
    "packing": _packing,
    "shared-prefixes": _shared_prefixes,
    "pruned-last-layer": _pruned_last_layer,
    "rounded-shapes": _rounded_shapes,
    "selected-logits": _selected_logits,
    "sampled-logprobs": _sampled_logprobs,
    "dropped-rows": _dropped_rows,
    "block-cache": _block_cache,
    "distinct-prompts": _distinct_prompts,
    "check-interval": _check_interval,
    "pinned-transfers": _pinned_transfers,
}
EXTRAS = {"fixed-decoding": _fixed_decoding, "varlen-attention": _varlen_attention}
