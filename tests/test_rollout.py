"""Sampling and scoring: what is sampled is what the log-probabilities speak of, however it was padded and batched."""

from functools import partial

import pytest
import torch
from transformers import DynamicCache

from rlhf.data import pad
from rlhf.logprobs import before, forward, text_logprobs, token_entropies, token_logprobs
from rlhf.models import ValueHead
from rlhf.rollout import Responses, complete, generate, logits_and_values, score
from rlhf.scoring import last_token_scores
from tests.conftest import scorer_of, tiny_gpt2, tiny_llama

PROMPTS = [[385, 328, 261, 376, 280, 294], [261, 376], [291, 280, 294]]  # words to the Llama with real weights
STOP, PAD = 0, 1


def sample(policy, prompts=PROMPTS, seed=0, temperature=1.0, length=12, stop_ids=(STOP,)) -> Responses:
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
    )


def logprobs_alone(policy, prompt: list[int], response: list[int], temperature: float) -> torch.Tensor:
    """The definition: one unpadded sequence, the model's own forward pass, a softmax at each token."""
    logits = policy(input_ids=torch.tensor([prompt + response])).logits[0]
    return torch.stack(
        [
            torch.softmax(logits[len(prompt) + t - 1] / temperature, dim=-1)[token].log()
            for t, token in enumerate(response)
        ]
    )


def responses_of(responses: Responses) -> list[list[int]]:
    return [tokens[mask].tolist() for tokens, mask in zip(responses.tokens, responses.mask, strict=True)]


# --- log-probabilities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_batched_padded_logprobs_are_those_of_each_sequence_alone(policy, temperature):
    responses = sample(policy, temperature=temperature)
    logits, _ = logits_and_values(policy, None, responses)
    logprobs = token_logprobs(logits, responses.tokens, temperature)
    for i, response in enumerate(responses_of(responses)):
        alone = logprobs_alone(policy, PROMPTS[i], response, temperature)
        torch.testing.assert_close(logprobs[i, : len(response)], alone, atol=1e-5, rtol=1e-5)


def test_more_padding_on_both_sides_does_not_change_logprobs_or_values(policy):
    responses, value_model = sample(policy), scorer_of(policy)
    wide = Responses(
        torch.nn.functional.pad(responses.input_ids, (4, 3), value=PAD),
        torch.nn.functional.pad(responses.attention_mask, (4, 3)),
        torch.nn.functional.pad(responses.mask, (0, 3)),
        responses.ended,
        responses.source,
    )
    width = responses.mask.shape[1]
    for narrow, padded in zip(
        logits_and_values(policy, value_model, responses), logits_and_values(policy, value_model, wide), strict=True
    ):
        torch.testing.assert_close(padded[:, :width][responses.mask], narrow[responses.mask], atol=1e-4, rtol=1e-4)
    trimmed = wide.trimmed()
    assert torch.equal(trimmed.input_ids, responses.input_ids)
    assert torch.equal(trimmed.mask, responses.mask)


def test_text_logprobs_are_the_models_own_loss(policy):
    documents = [[5, 6, 7, 8, 0], [9, 10, 0]]
    logprobs, mask = text_logprobs(policy, *pad(documents, PAD, "right"))
    for i, ids in enumerate(documents):
        own = policy(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss
        torch.testing.assert_close(-logprobs[i][mask[i]].mean(), own, atol=1e-5, rtol=1e-5)


def test_entropy_of_equal_logits_is_that_of_the_uniform_distribution():
    entropies = token_entropies(torch.zeros(1, 2, 8), temperature=0.5)
    torch.testing.assert_close(entropies, torch.full((1, 2), 8.0).log())


def test_before_is_the_state_in_which_each_token_was_chosen():
    positions = torch.arange(6)[None]
    assert before(positions, 2).tolist() == [[3, 4]]  # tokens 4 and 5 are chosen after seeing up to 3 and 4


def test_forward_gives_the_same_logits_with_and_without_the_saving(policy):
    ids, mask = pad(PROMPTS, PAD, "left")
    saved = before(forward(policy, ids, mask, 3).logits, 3)
    full = policy(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    torch.testing.assert_close(saved, full[:, -4:-1])


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_greedy_decoding_is_that_of_transformers(policy):
    input_ids, attention_mask = pad(PROMPTS, PAD, "left")
    theirs = policy.generate(
        input_ids=input_ids, attention_mask=attention_mask, do_sample=False, max_new_tokens=12, min_new_tokens=12,
        pad_token_id=PAD, eos_token_id=None,
    )  # fmt: skip
    ours = sample(policy, temperature=0, stop_ids=[])
    assert torch.equal(ours.input_ids, theirs)


def test_every_token_is_sampled_as_often_as_its_probability_says(policy):
    """Nothing is cut off: no top-k, no top-p. A chi-square test of 20,000 first tokens against the softmax.

    Tokens that are expected less than five times are counted together, as the test demands.
    """
    n, temperature = 20_000, 1.7
    logits = policy(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    expected = n * torch.softmax(logits / temperature, dim=-1)
    tokens = sample(policy, [PROMPTS[0]] * n, temperature=temperature, length=1, stop_ids=[]).tokens
    counts = torch.bincount(tokens.flatten(), minlength=len(expected))
    rare = expected < expected.sort().values[5].clamp(min=5)
    expected, counts = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (expected, counts))
    assert len(expected) > 50  # far more than the best few
    degrees = len(expected) - 1
    assert ((counts - expected) ** 2 / expected).sum() < degrees + 5 * (2 * degrees) ** 0.5


def test_a_response_ends_with_its_first_stop_token_and_holds_it(policy):
    stop_ids = range(2, 400, 30)
    responses = sample(policy, PROMPTS * 40, temperature=3.0, length=40, stop_ids=stop_ids)
    for response, ended in zip(responses_of(responses), responses.ended.tolist(), strict=True):
        stops = [token in stop_ids for token in response]
        assert stops == [False] * (len(response) - 1) + [ended]
        assert ended or len(response) == 40
    assert 0 < int(responses.ended.sum()) < len(responses.ended)


def test_a_row_is_sampled_alike_whatever_rows_are_beside_it(policy):
    """Dropping finished rows, and the lengths of others, do not reach into a row's random numbers."""
    together = sample(policy, [PROMPTS[0]] * 8, temperature=3.0, length=30, stop_ids=range(60))
    lengths = together.lengths.tolist()
    assert len(set(lengths)) > 1  # rows did finish at different times
    never = sample(policy, [PROMPTS[0]] * 8, temperature=3.0, length=30, stop_ids=[])
    for row, length in enumerate(lengths):
        assert together.tokens[row, :length].tolist() == never.tokens[row, :length].tolist()


def test_the_preallocated_cache_is_used_and_agrees_with_transformers_own(monkeypatch, policy):
    preallocated = sample(policy, temperature=1.0)
    monkeypatch.setattr("rlhf.rollout._new_cache", lambda model, capacity: DynamicCache(config=model.config))
    assert torch.equal(sample(policy, temperature=1.0).input_ids, preallocated.input_ids)


def test_complete_keeps_the_order_of_prompts_and_the_words_without_special_tokens(policy, tokenizer):
    prompts = [[20 + i] * (1 + i % 3) for i in range(7)]
    completions = complete(policy, tokenizer, prompts, response_length=6, temperature=0, seed=0, batch_size=2)
    for prompt, completion in zip(prompts, completions, strict=True):
        alone = sample(policy, [prompt], temperature=0, length=6)
        assert completion.ids == responses_of(alone)[0]
        assert completion.ended == bool(alone.ended)
        assert "<|" not in completion.text


# --- scoring ----------------------------------------------------------------------------------------------------------


def test_the_order_of_a_batch_changes_nothing_but_the_order(policy):
    responses, order = sample(policy), torch.tensor([2, 0, 1])

    def everything(batch):
        models = {"policy": policy, "reference": policy, "value_model": scorer_of(policy)}
        reward = partial(last_token_scores, scorer_of(policy))
        return vars(score(batch, **models, reward=reward, temperature=1.0, chunk=3))

    for one, other in zip(everything(responses.select(order)).values(), everything(responses).values(), strict=True):
        torch.testing.assert_close(one, other[order], atol=1e-4, rtol=1e-4)


def test_value_of_a_token_is_that_of_the_prompt_and_the_tokens_before_it(policy):
    responses, value_model = sample(policy), scorer_of(policy)
    _, values = logits_and_values(policy, value_model, responses)
    for i, response in enumerate(responses_of(responses)):
        for t in range(len(response)):
            prefix = torch.tensor([PROMPTS[i] + response[:t]])
            alone = value_model(prefix, torch.ones_like(prefix))[0, -1]
            torch.testing.assert_close(values[i, t], alone, atol=1e-4, rtol=1e-4)


def test_a_value_head_on_the_trunk_reads_the_policys_last_hidden_state(policy):
    responses, head = sample(policy), ValueHead(policy.config.hidden_size)
    torch.nn.init.normal_(head.score.weight)
    _, values = logits_and_values(policy, head, responses)
    prefix = torch.tensor([PROMPTS[1]])
    hidden = policy.base_model(input_ids=prefix).last_hidden_state[0, -1]
    torch.testing.assert_close(values[1, 0], head(hidden[None, None])[0, 0], atol=1e-5, rtol=1e-5)


def test_scoring_in_chunks_gives_what_scoring_at_once_gives():
    policy, reference = tiny_gpt2().eval(), tiny_llama().eval()
    responses, value_model = sample(policy), scorer_of(policy)

    def rollout(chunk):
        return score(
            responses, policy=policy, reference=reference, value_model=value_model,
            reward=lambda part: part.lengths.float(), temperature=1.0, chunk=chunk,
        )  # fmt: skip

    for one, other in zip(vars(rollout(1)).values(), vars(rollout(99)).values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
