"""Sampling responses, and scoring them with the reference, the value model and the reward.

Responses are sampled from the full distribution: no top-k, no top-p, no minimum length. Otherwise the log-probabilities
of `rlhf.engine.logprobs` would not be those of the sampling distribution.

Shapes: B responses; P prompt tokens, padded on the left; T response tokens, padded on the right; V vocabulary size; N
tokens without padding, row after row; S selected ones of these.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.engine import (
    check_interval,
    decoder_of,
    entropy,
    gathered,
    is_sharded,
    log_softmax,
    most,
    next_token_logprobs,
    own_share,
    packed_index,
    process_count,
    scatter_packed,
    selected_states,
    to_device,
    total,
    unwrap,
)
from rlhf.models import ValueHead, stop_token_ids
from rlhf.tokens import pad


@dataclass
class Responses:
    """Sampled responses. Prompt and response are in one row: `input_ids[:, P:]` is the response."""

    input_ids: Tensor  # (B, P + T) token ids
    attention_mask: Tensor  # (B, P + T) 1 on the tokens of prompt and response, 0 on padding at both ends
    mask: Tensor  # (B, T) bool, True on the tokens of the response, its eos included
    finished: Tensor  # (B,) bool, True if the response ends with eos, False if it was truncated
    prompt_index: Tensor  # (B,) index of its prompt in the data set
    logprobs: Tensor  # (B, T) log-probability of each token when it was sampled, nats; 0 in greedy decoding
    entropies: Tensor  # (B, T) entropy of the distribution it was sampled from, nats; 0 in greedy decoding
    values: Tensor  # (B, T) expected return before each token, from a value head on the policy; 0 without one

    @property
    def tokens(self) -> Tensor:
        """The token ids of the responses alone, (B, T)."""
        return self.input_ids[:, -self.mask.shape[1] :]

    @property
    def lengths(self) -> Tensor:
        """The number of tokens of each response, (B,)."""
        return self.mask.sum(dim=1)

    @property
    def prefix_row(self) -> Tensor | None:
        """For each row, the first row with the same prompt, (B,); None if all prompts differ."""
        prompts, group = torch.unique(self.prompt_index, return_inverse=True)
        if len(prompts) == len(group):
            return None
        rows = torch.arange(len(group), device=group.device)
        return rows.new_full(prompts.shape, len(group)).scatter_reduce(0, group, rows, "amin")[group]

    @property
    def token_index(self) -> Tensor:
        """The packed index (S,) of every response token, see `rlhf.engine.packed_index`."""
        prompt = self.mask.new_zeros(len(self.mask), self.input_ids.shape[1] - self.mask.shape[1])
        return packed_index(torch.cat([prompt, self.mask], dim=1), self.attention_mask)

    def select(self, rows: Tensor | slice) -> Self:
        """The selected rows, as an object of the same class."""
        rows = to_device(rows, self.mask.device) if isinstance(rows, Tensor) else rows  # once, not for each field
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def trimmed(self) -> Self:
        """The same responses without columns that are padding in every row."""
        length = self.mask.shape[1]
        prompt = self.input_ids.shape[1] - length
        left = prompt - int(self.attention_mask[:, :prompt].sum(dim=1).max())
        right = length - int(self.lengths.max())

        def trim(tensor: Tensor) -> Tensor:
            if tensor.dim() < 2:
                return tensor
            return tensor[:, left if tensor.shape[1] > length else 0 : tensor.shape[1] - right]

        return type(self)(*(trim(getattr(self, field.name)) for field in fields(self)))


@dataclass
class Rollout(Responses):
    """Responses with reference log-probabilities, values and scores: the input of an update."""

    ref_logprobs: Tensor  # (B, T) log-probability of each token under the reference, nats
    values: Tensor  # (B, T) expected return before each token, from the value model; 0 without one
    scores: Tensor  # (B,) score of the whole response, from the reward model or reward function

    @property
    def kls(self) -> Tensor:
        """The log-ratio log pi - log pi_ref of each response, (B,), in nats. Its mean estimates the KL."""
        return (self.logprobs - self.ref_logprobs).where(self.mask, 0.0).sum(dim=1)

    def gathered(self, share: slice, batch: int, pad_id: int) -> "Rollout":
        """The whole rollout of `batch` rows, on each process. This process has the rows `share`.

        All processes have prompts of the same padded length.
        """
        if process_count() == 1:
            return self
        missing = max(gathered([self.mask.shape[1]])) - self.mask.shape[1]
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, tensor in own.items():
            if tensor.dim() > 1:
                padding = pad_id if name == "input_ids" else 0
                own[name] = nn.functional.pad(tensor, (0, missing), value=padding)
        # one exchange; token ids, too, are exact in double precision
        columns = [tensor.double().reshape(len(self.mask), -1) for tensor in own.values()]
        whole = columns[0].new_zeros(batch, sum(column.shape[1] for column in columns))
        whole[share] = torch.cat(columns, dim=1)
        parts = total(whole).split([column.shape[1] for column in columns], dim=1)
        return Rollout(
            **{
                name: part.to(tensor.dtype).view(batch, *tensor.shape[1:])
                for (name, tensor), part in zip(own.items(), parts, strict=True)
            }
        )


# --- sampling ---------------------------------------------------------------------------------------------------------


def generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    response_length: int,
    temperature: float,
    stop_ids: Sequence[int],
    pad_id: int,
    generator: torch.Generator | None = None,
    uniforms: Tensor | None = None,
    value_head: ValueHead | None = None,
) -> Responses:
    """One response to each prompt (B, P), sampled token by token from softmax(logits / temperature).

    Temperature 0 is greedy decoding. A response ends with one of `stop_ids`, or is truncated after `response_length`
    tokens. `uniforms` (response_length, B) are the random numbers, see `random_numbers`, by default from
    `generator`; so a response does not depend on the other rows. `value_head` computes a value before each token. Raises
    InputError for a model without a cache of keys and values.
    """
    batch, device = len(input_ids), input_ids.device
    if uniforms is None:
        uniforms = random_numbers(response_length, batch, generator)
    uniforms, interval = to_device(uniforms, device), check_interval(device)
    stop = torch.tensor(list(stop_ids), device=device)
    tokens = torch.full((batch, response_length), pad_id, device=device)
    mask = torch.zeros(batch, response_length, dtype=torch.bool, device=device)
    logprobs, entropies, values = torch.zeros(3, batch, response_length, device=device)
    finished = torch.zeros(batch, dtype=torch.bool, device=device)

    with decoder_of(model, input_ids, attention_mask, response_length) as decoder:
        for t in range(response_length):
            hidden, logits = decoder.forward()
            rows = decoder.rows  # the unfinished rows, and a few finished ones, which get padding
            if value_head is not None:
                values[rows, t] = value_head(hidden)
            if temperature:
                distribution = log_softmax(logits, temperature)
                probabilities = distribution.exp()
                sampled = sample_tokens(probabilities, uniforms[t, rows])
                logprobs[rows, t] = distribution.gather(1, sampled[:, None]).squeeze(1)
                entropies[rows, t] = entropy(distribution, probabilities)
            else:
                sampled = logits.argmax(dim=1)
            unfinished = ~finished[rows]
            tokens[rows, t] = torch.where(unfinished, sampled, pad_id)
            mask[rows, t] = unfinished
            finished[rows] |= unfinished & (sampled[:, None] == stop).any(dim=1)  # isin would wait for a GPU
            looks = (t + 1) % interval == 0
            if looks and finished.all():
                break
            decoder.append(sampled)
            if looks:
                decoder.drop(finished[rows])

    length = int(mask.sum(dim=1).max())
    tokens, mask = tokens[:, :length], mask[:, :length]
    return Responses(
        input_ids=torch.cat([input_ids, tokens], dim=1),
        attention_mask=torch.cat([attention_mask.long(), mask.long()], dim=1),
        mask=mask,
        finished=finished,
        prompt_index=torch.arange(batch, device=device),
        logprobs=logprobs[:, :length].where(mask, 0.0),
        entropies=entropies[:, :length].where(mask, 0.0),
        values=values[:, :length].where(mask, 0.0),
    )


def random_numbers(response_length: int, batch: int, generator: torch.Generator | None = None) -> Tensor:
    """Uniform numbers for `batch` responses, (response_length, batch), from a generator on the CPU.

    So a seed gives the same numbers on every device.
    """
    return torch.rand(response_length, batch, generator=generator, dtype=torch.float64, device="cpu")


def sample_tokens(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """A token (B,) of each distribution (B, V), by inverting its cumulative distribution at `uniform` (B,)."""
    cumulative = probabilities.cumsum(dim=1, dtype=torch.float64)
    # scaled by the last sum, which rounding may leave slightly off 1; a token of probability 0 is never sampled
    threshold = uniform[:, None] * cumulative[:, -1:]
    sampled = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    return sampled.clamp(max=cumulative.shape[1] - 1)  # NaN probabilities would index past the vocabulary


@dataclass
class Completion:
    """A response as text."""

    ids: list[int]  # its tokens, eos included
    text: str  # the same without special tokens
    finished: bool  # True if it ends with eos, False if it was truncated


def sample_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    response_length: int,
    temperature: float,
    seed: int,
    batch_size: int = 256,
    completions: list[Completion | None] | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Completion]:
    """One completion of each prompt (token ids), in the order of `prompts`. Batches hold prompts of similar length.

    `completions` is filled in place, so that `progress`, called after each batch with its size, can save it. To resume
    an interrupted call, pass what was saved and the same other arguments: finished batches are not sampled again. The
    processes of a run share each batch, and each gets all completions.
    """
    generator = torch.Generator().manual_seed(seed)
    result: list[Completion | None] = [None] * len(prompts) if completions is None else completions
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        # also for a finished batch: later ones must get the random numbers of an uninterrupted call
        uniforms = random_numbers(response_length, len(rows), generator)
        if not all(result[i] for i in rows):
            share = own_share(len(rows))
            own = _sample_batch(model, tokenizer, [prompts[i] for i in rows[share]], temperature, uniforms[:, share])
            for i, completion in zip(rows, gathered(own), strict=True):
                result[i] = completion
        progress(len(rows))
    return [completion for completion in result if completion]


def _sample_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    temperature: float,
    uniforms: Tensor,
) -> list[Completion]:
    if not prompts:
        return []
    input_ids, attention_mask = pad(prompts, tokenizer.pad_token_id, "left")
    responses = generate(
        model,
        to_device(input_ids, model.device),
        to_device(attention_mask, model.device),
        response_length=len(uniforms),
        temperature=temperature,
        stop_ids=stop_token_ids(model, tokenizer),
        pad_id=tokenizer.pad_token_id,
        uniforms=uniforms,
    )
    ids = [tokens[mask].tolist() for tokens, mask in zip(responses.tokens, responses.mask, strict=True)]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [Completion(*fields) for fields in zip(ids, texts, responses.finished.tolist(), strict=True)]


# --- scoring ----------------------------------------------------------------------------------------------------------


def score_responses(
    responses: Responses,
    *,
    reference: nn.Module,
    value_model: nn.Module | None,
    reward: Callable[[Responses], Tensor] | None,
    temperature: float,
    chunk: int,
) -> Rollout:
    """Adds reference log-probabilities, values and scores to responses, `chunk` rows at a time to bound memory.

    Scores are 0 without a `reward`. The policy's log-probabilities and a `ValueHead`'s values come from sampling.
    """
    values_known = value_model is None or isinstance(unwrap(value_model), ValueHead)
    parts = []
    starts = [*range(0, len(responses.mask), chunk)]
    count = len(starts)
    if is_sharded(reference):
        starts += [0] * (most(count) - count)  # sharded models must be called equally often in each process
    for start in starts:
        part = responses.select(slice(start, start + chunk)).trimmed()
        with torch.no_grad():
            ref_logprobs, _ = response_logprobs(reference, part, temperature)
            values = part.values if value_model is None or values_known else response_values(value_model, part)
            scores = ref_logprobs.new_zeros(len(part.mask)) if reward is None else reward(part)
            parts.append((ref_logprobs, values, scores))
    width = responses.mask.shape[1]
    columns = [
        [nn.functional.pad(part, (0, width - part.shape[1])) if part.dim() > 1 else part for part in column]
        for column in zip(*parts[:count], strict=True)
    ]
    ref_logprobs, values, scores = map(torch.cat, columns)
    sampled = {field.name: getattr(responses, field.name) for field in fields(Responses)}
    return Rollout(**{**sampled, "values": values}, ref_logprobs=ref_logprobs, scores=scores)


def response_logprobs(
    policy: nn.Module, responses: Responses, temperature: float, value_head: nn.Module | None = None
) -> tuple[Tensor, Tensor | None]:
    """The log-probability (B, T), in nats, of each response token, and its value (B, T) if there is a `value_head`."""
    before = responses.token_index - 1
    states = selected_states(policy, responses.input_ids, responses.attention_mask, before, responses.prefix_row)
    logprobs = scatter_packed(next_token_logprobs(states, temperature), responses.mask)
    if value_head is None:
        return logprobs, None
    return logprobs, scatter_packed(value_head(states.hidden), responses.mask)


def response_values(value_model: nn.Module, responses: Responses) -> Tensor:
    """The value (B, T) before each response token, from a value model that is a `Scorer`."""
    before = responses.token_index - 1
    values = value_model(responses.input_ids, responses.attention_mask, before, responses.prefix_row)
    return scatter_packed(values, responses.mask)
