"""Sampling responses, and scoring them with the policy, the reference, the value model and the reward.

Nothing is cut from the distribution at sampling: no top-k, no top-p, no minimum length. What is sampled is what the
log-probabilities of `rlhf.logprobs` speak of.

Shapes: B responses, P prompt length (padded on the left), T response length (padded on the right), V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.cache import can_select, new_cache, room
from rlhf.data import pad
from rlhf.errors import InputError
from rlhf.forward import accepts, last_states, packs, states, unwrapped, with_positions
from rlhf.kernels import packed_weights
from rlhf.logprobs import entropies, log_softmax, next_logprobs, numbered, put
from rlhf.models import ValueHead, stop_token_ids


@dataclass
class Responses:
    """What was sampled. Sequences are prompt and response in one row: `input_ids[:, P:]` is the response."""

    input_ids: Tensor  # (B, P + T) token ids
    attention_mask: Tensor  # (B, P + T) 1 on the tokens of prompt and response, 0 on padding at both ends
    mask: Tensor  # (B, T) bool, True on the tokens of the response, its eos among them
    ended: Tensor  # (B,) bool, whether the response ended itself (with an eos) or was cut off
    source: Tensor  # (B,) which prompt of the data set it answers
    logprobs: Tensor  # (B, T) log-probability of each token when it was drawn, nats; 0 where decoding was greedy
    entropies: Tensor  # (B, T) entropy of the distribution it was drawn from, nats; 0 where decoding was greedy
    values: Tensor  # (B, T) expected return before each token, by a head on the policy's trunk; 0 where there was none

    @property
    def tokens(self) -> Tensor:
        """The token ids of the responses alone, (B, T)."""
        return self.input_ids[:, -self.mask.shape[1] :]

    @property
    def lengths(self) -> Tensor:
        """Tokens a response, (B,)."""
        return self.mask.sum(dim=1)

    @property
    def first(self) -> Tensor | None:
        """For each row, the first that answers the same prompt, (B,); None where no two do."""
        prompts, which = torch.unique(self.source, return_inverse=True)
        if len(prompts) == len(which):
            return None
        rows = torch.arange(len(which), device=which.device)
        return rows.new_full(prompts.shape, len(which)).scatter_reduce(0, which, rows, "amin")[which]

    @property
    def chosen(self) -> Tensor:
        """The numbers (R,) of the responses' tokens among all tokens without padding, row after row."""
        prompt = self.mask.new_zeros(len(self.mask), self.input_ids.shape[1] - self.mask.shape[1])
        return numbered(torch.cat([prompt, self.mask], dim=1), self.attention_mask)

    def select(self, rows: Tensor | slice):
        """Some of the rows, as the same dataclass."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def trimmed(self):
        """The same without the columns that are padding in every row."""
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
    """Responses and all that PPO wants to know about them before the update."""

    ref_logprobs: Tensor  # (B, T) log-probability of each token under the reference, nats
    values: Tensor  # (B, T) expected return before each token, by whatever value model there is; 0 where there is none
    scores: Tensor  # (B,) what the reward says of the whole response

    @property
    def kls(self) -> Tensor:
        """The log-ratio of policy and reference of each response, (B,) nats: its mean estimates their KL."""
        return (self.logprobs - self.ref_logprobs).where(self.mask, 0.0).sum(dim=1)


# --- sampling ---------------------------------------------------------------------------------------------------------


ROUND = 8  # rows that are left are rounded up to a multiple of it: products are compiled anew for each number of rows
WORTH = 0.85  # share of the rows that must be left at most for the copy of the cache to pay


def same_prompts(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The prompts (B, P) without those that repeat another, and where each of the B is among them; None if all differ."""
    both = torch.stack([input_ids, attention_mask], dim=1)
    found, same = torch.unique(both.cpu(), dim=0, return_inverse=True)
    if len(found) == len(both):
        return input_ids, attention_mask, None
    return *found.to(both.device).unbind(dim=1), same.to(both.device)


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
    value_head: ValueHead | None = None,
) -> Responses:
    """One response to each prompt (B, P), sampled token by token from softmax(logits / temperature).

    Temperature 0 is greedy decoding. A response ends with one of `stop_ids`, or is cut off after `response_length`
    tokens. The random numbers are drawn once for all, so that a row's response depends on neither the others' lengths
    nor on which rows have finished. `value_head` is read before each token; without one, values are 0. Raises InputError
    for a model that keeps something else than keys and values of what it has read.
    """
    if not accepts(model, "past_key_values") and (accepts(model, "cache_params") or accepts(model, "state")):
        raise InputError(f"{type(model).__name__} has no keys and values to decode with: it can't be sampled from here")
    batch, prompt_length = input_ids.shape
    device = input_ids.device
    # drawn on the CPU: a seed means the same on every device
    uniforms = torch.rand(response_length, batch, generator=generator, dtype=torch.float64, device="cpu").to(device)
    stop = torch.tensor(list(stop_ids), device=device)
    tokens = torch.full((batch, response_length), pad_id, device=device)
    mask = torch.zeros(batch, response_length, dtype=torch.bool, device=device)
    logprobs, spread, values = torch.zeros(3, batch, response_length, device=device)
    ended = torch.zeros(batch, dtype=torch.bool, device=device)

    causal = packs(model)  # its attention is that and no more
    cache = new_cache(model)
    selects = can_select(cache)
    rows = torch.arange(batch, device=device)  # the responses that still grow, as rows of the batch
    new_ids, seen = input_ids, attention_mask.long()
    same = None
    if selects:
        new_ids, seen, same = same_prompts(new_ids, seen)
    with packed_weights(model, batch), torch.no_grad():
        for t in range(response_length):
            inputs = with_positions(model, seen)
            if t and causal:
                # what a model would make of it, layer by layer; nothing is there yet in the rest of the cache
                missing = room(seen.shape[1]) - seen.shape[1]
                inputs["attention_mask"] = nn.functional.pad(seen, (0, missing)).bool()[:, None, None]
            if "position_ids" in inputs:
                inputs["position_ids"] = inputs["position_ids"][:, -new_ids.shape[1] :]
            hidden, logits = last_states(model, new_ids, past_key_values=cache, use_cache=True, **inputs)
            if same is not None and t == 0:
                cache.batch_select_indices(same)
                hidden, logits, seen = hidden[same], logits[same], seen[same]
            if value_head is not None:
                values[rows, t] = value_head(hidden)
            if temperature:
                distribution = log_softmax(logits, temperature)
                probabilities = distribution.exp()
                chosen = _sample(probabilities, uniforms[t, rows])
                logprobs[rows, t] = distribution.gather(1, chosen[:, None]).squeeze(1)
                spread[rows, t] = entropies(distribution, probabilities)
            else:
                chosen = logits.argmax(dim=1)
            growing = ~ended[rows]
            tokens[rows, t] = torch.where(growing, chosen, pad_id)
            mask[rows, t] = growing
            ended[rows] |= growing & torch.isin(chosen, stop)

            still = (~ended[rows]).nonzero().squeeze(1)
            if len(still) == 0:
                break
            new_ids, seen = chosen[:, None], torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
            # finished rows are dropped when they are many enough; a few may stay to round the number
            keep = -(-len(still) // ROUND) * ROUND
            if selects and keep <= WORTH * len(rows):
                kept = torch.cat([still, ended[rows].nonzero().squeeze(1)[: keep - len(still)]])
                cache.batch_select_indices(kept)
                rows, new_ids, seen = rows[kept], new_ids[kept], seen[kept]

    length = int(mask.sum(dim=1).max())
    tokens, mask = tokens[:, :length], mask[:, :length]
    return Responses(
        input_ids=torch.cat([input_ids, tokens], dim=1),
        attention_mask=torch.cat([attention_mask.long(), mask.long()], dim=1),
        mask=mask,
        ended=ended,
        source=torch.arange(batch, device=device),
        logprobs=logprobs[:, :length].where(mask, 0.0),
        entropies=spread[:, :length].where(mask, 0.0),
        values=values[:, :length].where(mask, 0.0),
    )


def _sample(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """A token for each distribution (B, V), by inverting its cumulative distribution at `uniform` (B,)."""
    cumulative = probabilities.cumsum(dim=1, dtype=torch.float64)
    # scaled by the last sum, which rounding may leave a little off 1; a token of probability 0 is never chosen
    threshold = uniform[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    return chosen.clamp(max=cumulative.shape[1] - 1)  # what is no number would give a token beyond the vocabulary


@dataclass
class Completion:
    """A response as text."""

    ids: list[int]  # its tokens, the eos among them
    text: str  # the same without special tokens
    ended: bool  # by an eos, not cut off


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    response_length: int,
    temperature: float,
    seed: int,
    batch_size: int = 256,
    completions: list[Completion | None] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Completion]:
    """A response to each prompt, given as token ids, in their order.

    A batch holds prompts of similar length, the same ones beside each other.

    `completions`, which is filled and returned, may hold some of an interrupted call with the same arguments.
    """
    generator = torch.Generator().manual_seed(seed)
    completions = [None] * len(prompts) if completions is None else completions
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        if all(completions[i] for i in rows):
            # goes past the random numbers that these were sampled with
            torch.rand(response_length, len(rows), generator=generator, dtype=torch.float64)
            progress(len(rows))
            continue
        input_ids, attention_mask = pad([prompts[i] for i in rows], tokenizer.pad_token_id, "left")
        responses = generate(
            model,
            input_ids.to(model.device),
            attention_mask.to(model.device),
            response_length=response_length,
            temperature=temperature,
            stop_ids=stop_token_ids(model, tokenizer),
            pad_id=tokenizer.pad_token_id,
            generator=generator,
        )
        ids = [tokens[mask].tolist() for tokens, mask in zip(responses.tokens, responses.mask, strict=True)]
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        for i, *completion in zip(rows, ids, texts, responses.ended.tolist(), strict=True):
            completions[i] = Completion(*completion)
        progress(len(rows))
    return completions


# --- scoring ----------------------------------------------------------------------------------------------------------


def score(
    responses: Responses,
    *,
    reference: nn.Module,
    value_model: nn.Module | None,
    reward: Callable[[Responses], Tensor],
    temperature: float,
    chunk: int,
) -> Rollout:
    """The responses with everything PPO needs to know of them, `chunk` rows at a time to bound memory.

    What the policy says of them, and a value head on its trunk, is known from sampling. Without a value model, values
    are 0.
    """
    known = value_model is None or isinstance(unwrapped(value_model), ValueHead)
    parts = []
    for start in range(0, len(responses.mask), chunk):
        part = responses.select(slice(start, start + chunk)).trimmed()
        with torch.no_grad():
            ref_logprobs, _ = response_logprobs(reference, part, temperature)
            values = part.values if known else response_values(value_model, part)
            parts.append((ref_logprobs, values, reward(part)))
    width = responses.mask.shape[1]
    columns = [
        [nn.functional.pad(part, (0, width - part.shape[1])) if part.dim() > 1 else part for part in column]
        for column in zip(*parts, strict=True)
    ]
    ref_logprobs, values, scores = map(torch.cat, columns)
    own = {field.name: getattr(responses, field.name) for field in fields(Responses)}
    return Rollout(**{**own, "values": values}, ref_logprobs=ref_logprobs, scores=scores)


def response_logprobs(
    policy: nn.Module, responses: Responses, temperature: float, value_head: nn.Module | None = None
) -> tuple[Tensor, Tensor | None]:
    """The log-probability (B, T), in nats, of each response token, and what a head on the trunk says before it (B, T)."""
    before = states(policy, responses.input_ids, responses.attention_mask, responses.chosen - 1, responses.first)
    logprobs = put(next_logprobs(before, temperature), responses.mask)
    if value_head is None:
        return logprobs, None
    return logprobs, put(value_head(before.hidden), responses.mask)


def response_values(value_model: nn.Module, responses: Responses) -> Tensor:
    """What a `Scorer` says of the state before each response token, (B, T)."""
    before = responses.chosen - 1
    return put(value_model(responses.input_ids, responses.attention_mask, before, responses.first), responses.mask)
