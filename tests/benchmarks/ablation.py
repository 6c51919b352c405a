"""Our side without one of the things that save time, each taken out by its name: what does it gain?"""

import torch
from transformers import DynamicCache

from rlhf import asked, attention, forward, kernels, models, rollout, trainer


def apply(without: str) -> None:
    """Takes something out, for as long as this process lives. Nothing, if there is no name."""
    if without:
        {name.replace("_", "-"): function for name, function in globals().items()}[f"-{without}"]()


def _products_by_onednn() -> None:
    kernels.products_by_onednn = lambda: None


def _kept_memory() -> None:
    kernels.keep_freed_memory = lambda: None


def _gelu_by_sigmoid() -> None:
    kernels.TANH_GELU = ()


def _adamw_in_one_kernel() -> None:
    trainer.AdamW = lambda *args, fused, **kwargs: torch.optim.AdamW(*args, **kwargs)


def _attention_by_products() -> None:
    attention.PLAIN_LENGTH = 0


def _captured_logprobs() -> None:
    """The policy passes over its responses once more."""
    score = rollout.score

    def scored(responses, *, reference, chunk, temperature, **kwargs):
        with torch.no_grad():
            for start in range(0, len(responses.mask), chunk):
                # which is of the policy's size
                rollout.response_logprobs(reference, responses.select(slice(start, start + chunk)), temperature)
        return score(responses, reference=reference, chunk=chunk, temperature=temperature, **kwargs)

    trainer.score = scored


def _logits_where_needed() -> None:
    states = forward.states

    def everywhere(model, input_ids, attention_mask, at, first=None):
        found = states(model, input_ids, attention_mask, torch.arange(int(attention_mask.sum())), first)
        logits = found.logits(slice(None))[at]
        return forward.States(found.ids, at, found.hidden[at], lambda some: logits[some])

    rollout.states = everywhere


def _rows_without_padding() -> None:
    forward.packs = lambda model: bool(kernels.speed_up(model))


def _rounded_shapes() -> None:
    asked.ROUND = attention.ROUND = forward.ROUND = rollout.ROUND = 1


def _dropped_rows() -> None:
    rollout.WORTH = 0.0


def _cache_in_blocks() -> None:
    """Nor a mask that is ready for its blocks: transformers' cache, and the mask that a model makes for each token."""
    rollout.packs = lambda model: False
    rollout.new_cache = lambda model: DynamicCache(config=model.config)


def _packed_weights() -> None:
    kernels._can_pack = lambda dtype: False


def _prompts_read_once() -> None:
    rollout.same_prompts = lambda input_ids, seen: (input_ids, seen, None)


def _shared_prompts() -> None:
    forward.alike = lambda input_ids, attention_mask, first: torch.zeros_like(first)


def _attention_in_tables() -> None:
    attention.TABLES = 1


def _last_layer_where_needed() -> None:
    forward.WORTH = 0.0


def _frozen_as_rounded() -> None:
    models._round_matrices = lambda model: None
