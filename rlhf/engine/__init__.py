"""Fast forward passes and decoding for transformers' models. Results equal those of transformers up to rounding.

    packing, attention   the sequences of a batch in one row without padding; shared prefixes are computed once
    forward, passes      hidden states and logits at selected tokens only
    last_layer           the last layer's feed-forward block at selected tokens only
    decoding             a cache in preallocated buffers; finished rows are dropped
    gpu/                 what pays on a GPU only
    kernels              faster matrix products, memory allocation and GELU on a CPU
    support              probes which of these a model supports; a model that supports none runs as it is
    vocabulary           rows of an embedding that are no tokens have probability 0
    logprobs             the one definition of a log-probability
    processes            the processes of a run: which rows each computes, and what they exchange
    sharding             models whose weights are shared out over the processes (FSDP2)
    memory               what a pass and decoding need
    agreement            refuses a model that none of this gives correct results for

The rest of the project imports from here, never from these modules.
"""

from rlhf.engine.agreement import check_sampling, check_training
from rlhf.engine.decoding import Decoder, check_interval
from rlhf.engine.forward import hidden_states, selected_states
from rlhf.engine.gpu.fixed_decoding import decoder_of
from rlhf.engine.gpu.transfer import to_device
from rlhf.engine.kernels import bf16_slowdown, optimize
from rlhf.engine.logprobs import (
    entropy,
    log_softmax,
    next_token_logprobs,
    packed_index,
    scatter_packed,
    text_logprobs,
    token_logprobs,
)
from rlhf.engine.memory import PassMemory, decoding_memory, pass_memory, weight_memory
from rlhf.engine.processes import (
    balanced_share,
    call_inside,
    gathered,
    most,
    on_main,
    own_share,
    process_count,
    process_index,
    total,
    unwrap,
)
from rlhf.engine.sharding import (
    all_finite,
    clip_gradients,
    gathered_weights,
    is_sharded,
    load_whole_optimizer_state,
    load_whole_state,
    own_weights,
    release,
    save_whole,
    shard,
    sharding_plugin,
    start_sharding,
    whole_optimizer_state,
    whole_state,
)
from rlhf.engine.support import probe, supports_packing
from rlhf.engine.vocabulary import limit_vocabulary, only_tokens

__all__ = [
    "Decoder",
    "PassMemory",
    "all_finite",
    "balanced_share",
    "bf16_slowdown",
    "call_inside",
    "check_interval",
    "check_sampling",
    "check_training",
    "clip_gradients",
    "decoder_of",
    "decoding_memory",
    "entropy",
    "gathered",
    "gathered_weights",
    "hidden_states",
    "is_sharded",
    "limit_vocabulary",
    "load_whole_optimizer_state",
    "load_whole_state",
    "log_softmax",
    "most",
    "next_token_logprobs",
    "on_main",
    "only_tokens",
    "optimize",
    "own_share",
    "own_weights",
    "packed_index",
    "pass_memory",
    "probe",
    "process_count",
    "process_index",
    "release",
    "save_whole",
    "scatter_packed",
    "selected_states",
    "shard",
    "sharding_plugin",
    "start_sharding",
    "supports_packing",
    "text_logprobs",
    "token_logprobs",
    "to_device",
    "total",
    "unwrap",
    "whole_optimizer_state",
    "whole_state",
    "weight_memory",
]
