"""Measures how far the log-probabilities of the update are from those of sampling, by precision.

python -m tests.mismatch runs/tiny/sft

Prints a table: each row is a precision of the forward pass and of the last layer, which computes the logits. Writes
runs/measured/mismatch.json, which `python -m tests.pages runs/measured/mismatch.json` puts into docs/from-trl.md.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from rlhf.models import load_policy
from rlhf.rollout import generate, response_logprobs
from rlhf.tokens import load_tokenizer, pad
from tests.pages.measured import record

PROMPTS, LENGTH, RESPONSE = 256, 16, 64
QUANTILES = [0.01, 0.99]


@contextmanager
def head_in_fp32(head: nn.Module) -> Iterator[None]:
    """A context in which the last layer computes in fp32, whatever the precision of the forward pass."""
    forward = head.forward

    def exact(hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return forward(hidden.float())

    head.forward = exact  # type: ignore[method-assign]
    try:
        yield
    finally:
        head.forward = forward  # type: ignore[method-assign]


@torch.no_grad()
def ratios(folder: Path, precision: torch.dtype, head: torch.dtype) -> Tensor:
    """The probability ratio (S,) of every response token before any update; prompts are random tokens."""
    tokenizer = load_tokenizer(folder)
    policy = load_policy(folder, tokenizer)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(len(tokenizer), (PROMPTS, LENGTH), generator=generator).tolist()
    exact = head_in_fp32(policy.get_output_embeddings()) if head == torch.float32 else torch.no_grad()
    with torch.autocast(policy.device.type, precision, enabled=precision != torch.float32), exact:
        responses = generate(
            policy, *pad(prompts, tokenizer.pad_token_id, "left"), response_length=RESPONSE, temperature=1.0,
            stop_ids=[tokenizer.eos_token_id], pad_id=tokenizer.pad_token_id, generator=generator,
        )  # fmt: skip
        logprobs, _ = response_logprobs(policy, responses, 1.0)
    return (logprobs - responses.logprobs)[responses.mask].exp()


def main() -> None:
    print(
        "| forward pass | last layer | tokens | mean of abs(ratio - 1) | 1st percentile | 99th percentile | largest |"
    )
    print("|---|---|---|---|---|---|---|")
    rows = []
    for precision, head in [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")]:
        ratio = ratios(Path(sys.argv[1]), getattr(torch, precision), getattr(torch, head))
        low, high = ratio.quantile(torch.tensor(QUANTILES)).tolist()
        off = (ratio - 1).abs()
        numbers = {
            "tokens": len(ratio),
            "mean": float(off.mean()),
            "low": low,
            "high": high,
            "largest": float(off.max()),
        }
        rows.append({"forward": precision, "head": head, **numbers})
        print(
            f"| {precision} | {head} | {len(ratio):,} | {off.mean():.1e} | {low:.5f} | {high:.5f} | {off.max():.1e} |"
        )
    record("mismatch", {"/".join(Path(sys.argv[1]).resolve().parts[-2:]): rows})


if __name__ == "__main__":
    main()
