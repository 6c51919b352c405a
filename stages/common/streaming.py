"""One response, token by token, for a person who reads it while it is sampled.

The tokens are those that `rlhf.rollout.generate` samples for a single prompt with the same random numbers.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.engine import Decoder, log_softmax
from rlhf.rollout import random_numbers, sample_tokens

REPLACEMENT = "\ufffd"  # what a tokenizer decodes an incomplete character to


def stream_tokens(
    model: PreTrainedModel,
    prompt: Sequence[int],
    *,
    response_length: int,
    temperature: float,
    seed: int,
    stop_ids: Sequence[int],
) -> Generator[int, None, None]:
    """The tokens of a response to a prompt (token ids), one of `stop_ids` included, at most `response_length`.

    Temperature 0 is greedy decoding. Close the iterator if it is not read to its end; gradients are off until then.
    Raises InputError for a model without a cache of keys and values.
    """
    input_ids = torch.tensor([prompt], device=model.device)
    generator = torch.Generator().manual_seed(seed)
    uniforms = random_numbers(response_length, 1, generator).to(model.device)
    with Decoder(model, input_ids, torch.ones_like(input_ids)) as decoder:
        for t in range(response_length):
            _, logits = decoder.forward()
            if temperature:
                sampled = sample_tokens(log_softmax(logits, temperature).exp(), uniforms[t])
            else:
                sampled = logits.argmax(dim=1)
            token = int(sampled)
            yield token
            if token in stop_ids:
                return
            decoder.append(sampled)


def stream_text(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens piece by piece, without special tokens; the pieces joined are the decoded tokens.

    A character whose bytes are in several tokens comes whole. Space is held back until text follows it, because some
    tokenizers remove the space before a full stop.
    """
    ids: list[int] = []
    shown = text = ""
    for token in tokens:
        ids.append(token)
        text = str(tokenizer.decode(ids, skip_special_tokens=True))
        complete = text.rstrip(REPLACEMENT + " ")
        if len(complete) > len(shown) and complete.startswith(shown):
            yield complete[len(shown) :]
            shown = complete
    if len(text) > len(shown):
        yield text[len(shown) :]
