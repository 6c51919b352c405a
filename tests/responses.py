"""Sampling for tests, and the log-probability of a token by its definition."""

import torch

from rlhf.rollout import Responses, generate
from rlhf.tokens import pad

PROMPTS = [[385, 328, 261, 376, 280, 294], [261, 376], [291, 280, 294]]  # text to the Llama with real weights
STOP, PAD = 0, 1


def sample(policy, prompts=PROMPTS, seed=0, temperature=1.0, length=12, stop_ids=(STOP,), **kwargs) -> Responses:
    """A response of at most `length` tokens to each prompt; `kwargs` go to `generate`."""
    input_ids, attention_mask = pad(prompts, PAD, "left")
    return generate(
        policy,
        input_ids,
        attention_mask,
        response_length=length,
        temperature=temperature,
        stop_ids=stop_ids,
        pad_id=PAD,
        generator=torch.Generator().manual_seed(seed),
        **kwargs,
    )


def responses_of(responses: Responses) -> list[list[int]]:
    """The token ids of each response, without padding."""
    return [tokens[mask].tolist() for tokens, mask in zip(responses.tokens, responses.mask, strict=True)]


def logprobs_alone(policy, prompt: list[int], response: list[int], temperature: float) -> torch.Tensor:
    """The definition: one unpadded sequence, the model's own forward pass, a softmax at each token."""
    logits = policy(input_ids=torch.tensor([prompt + response])).logits[0]
    return torch.stack(
        [
            torch.softmax(logits[len(prompt) + t - 1] / temperature, dim=-1)[token].log()
            for t, token in enumerate(response)
        ]
    )


def assert_greedy_decoding_equals_transformers(policy) -> None:
    """Temperature 0 gives the tokens of transformers' own `generate`."""
    input_ids, attention_mask = pad(PROMPTS, PAD, "left")
    theirs = policy.generate(
        input_ids=input_ids, attention_mask=attention_mask, do_sample=False, max_new_tokens=12, min_new_tokens=12,
        pad_token_id=PAD, eos_token_id=None,
    )  # fmt: skip
    ours = sample(policy, temperature=0, stop_ids=[])
    assert torch.equal(ours.input_ids, theirs)
