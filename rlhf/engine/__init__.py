"""Fast forward passes and decoding for transformers' models, equal to the plain ones to rounding.

Padding is never computed: the sequences of a batch are packed into one row (`packing`, `attention`), a prefix that several
share is computed once, and the last layer and the logits only at selected tokens (`last_layer`, `forward`). Decoding keeps
keys and values in preallocated buffers and drops finished rows (`decoding`). On a CPU, oneDNN multiplies matrices
(`kernels`). What a model supports is probed, not listed (`support`); a model that supports none of it runs as it is.
`logprobs` holds the one definition of a log-probability.

The rest of the project imports from here, never from the modules inside.
"""

from rlhf.engine.decoding import Decoder
from rlhf.engine.forward import hidden_states, selected_states
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
from rlhf.engine.passes import unwrap
from rlhf.engine.support import probe, supports_packing

__all__ = [
    "Decoder",
    "bf16_slowdown",
    "entropy",
    "hidden_states",
    "log_softmax",
    "next_token_logprobs",
    "optimize",
    "packed_index",
    "probe",
    "scatter_packed",
    "selected_states",
    "supports_packing",
    "text_logprobs",
    "token_logprobs",
    "unwrap",
]
