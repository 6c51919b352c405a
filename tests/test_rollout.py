"""Sampling: tokens come from the full distribution, and padding, batching and dropped rows do not change them."""

import pytest
import torch

from rlhf.rollout import generate, sample_tokens
from rlhf.tokens import pad
from tests.responses import (
    PAD,
    PROMPTS,
    STOP,
    assert_greedy_decoding_equals_transformers,
    logprobs_alone,
    responses_of,
    sample,
)

SOME_STOPS = range(0, 400, 3)  # many tokens that end a response: lengths differ


def record_shapes(policy) -> list[tuple[int, int]]:
    """A list that gets the rows and tokens of each forward pass of the policy."""
    shapes = []
    policy.base_model.register_forward_hook(
        lambda module, args, kwargs, output: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


# --- the distribution -------------------------------------------------------------------------------------------------


def test_greedy_decoding_equals_transformers(policy):
    assert_greedy_decoding_equals_transformers(policy)


def test_greedy_decoding_has_log_probability_and_entropy_zero(policy):
    responses = sample(policy, temperature=0.0)
    assert responses.logprobs.abs().sum() == responses.entropies.abs().sum() == 0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_at_sampling_are_those_of_each_sequence_alone(policy, temperature):
    """Although the decoder reads keys and values from a cache and drops finished rows."""
    responses = sample(policy, PROMPTS * 5, temperature=temperature, length=12, stop_ids=SOME_STOPS)
    assert len(set(responses.lengths.tolist())) > 2
    assert responses.logprobs.shape == responses.mask.shape
    for i, response in enumerate(responses_of(responses)):
        alone = logprobs_alone(policy, PROMPTS[i % len(PROMPTS)], response, temperature)
        torch.testing.assert_close(responses.logprobs[i, : len(response)], alone, atol=1e-5, rtol=1e-5)


def test_every_token_is_sampled_as_often_as_its_probability(policy):
    """No top-k and no top-p: a chi-square test of 20,000 first tokens against the softmax.

    Tokens with an expected count below 5 are counted together, as the test requires.
    """
    n, temperature = 20_000, 1.7
    logits = policy(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    expected = n * torch.softmax(logits / temperature, dim=-1)
    tokens = sample(policy, [PROMPTS[0]] * n, temperature=temperature, length=1, stop_ids=[]).tokens
    counts = torch.bincount(tokens.flatten(), minlength=len(expected))
    rare = expected < expected.sort().values[5].clamp(min=5)
    expected, counts = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (expected, counts))
    assert len(expected) > 50  # more than a top-k would leave
    degrees = len(expected) - 1
    assert ((counts - expected) ** 2 / expected).sum() < degrees + 5 * (2 * degrees) ** 0.5


def test_six_equally_likely_tokens_share_the_unit_interval_equally():
    edges = (torch.arange(6, dtype=torch.float64)[:, None] + torch.tensor([0.01, 0.99])).flatten() / 6
    tokens = sample_tokens(torch.full((12, 6), 1 / 6), edges)
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53], ids=["lowest", "highest"])
def test_a_token_of_probability_zero_is_never_sampled(uniform):
    """At both ends of the range of torch.rand; rounding leaves the sum of the probabilities a little off 1."""
    logits = torch.randn(500, 60, generator=torch.Generator().manual_seed(0))
    logits[:, [0, 1, 30, 58, 59]] = -torch.inf
    tokens = sample_tokens(torch.softmax(logits, dim=-1), torch.full((500,), uniform, dtype=torch.float64))
    assert set(tokens.tolist()) == {2 if uniform == 0 else 57}


def test_nan_probabilities_give_a_token_of_the_vocabulary():
    """On a GPU an index past the vocabulary would end the process before the error could be reported."""
    tokens = sample_tokens(torch.full((2, 6), torch.nan), torch.tensor([0.0, 0.9], dtype=torch.float64))
    assert (tokens < 6).all()


def test_random_numbers_are_finer_than_single_precision(monkeypatch, policy):
    """Single-precision random numbers are multiples of 2 ** -24: a rarer token might never be sampled."""
    uniforms = []
    monkeypatch.setattr("rlhf.rollout.sample_tokens", lambda *args: uniforms.append(args[1]) or sample_tokens(*args))
    sample(policy)
    assert (torch.cat(uniforms) * 2**24 % 1 != 0).any()


def test_small_probabilities_after_a_large_one_are_not_rounded_away():
    """In single precision 0.5 + 2 ** -27 is 0.5: none of the thousand rare tokens could be sampled."""
    probabilities = torch.cat(
        [torch.tensor([0.5]), torch.full((1000,), 2.0**-27), torch.tensor([0.5 - 1000 * 2.0**-27])]
    )
    uniforms = 0.5 + (torch.tensor([0, 500, 999]) + 0.5).double() * 2.0**-27
    assert sample_tokens(probabilities.expand(3, -1), uniforms).tolist() == [1, 501, 1000]


# --- rows of a batch --------------------------------------------------------------------------------------------------


def test_a_response_ends_with_its_first_stop_token_and_includes_it(policy):
    stop_ids = range(2, 400, 30)
    responses = sample(policy, PROMPTS * 40, temperature=3.0, length=40, stop_ids=stop_ids)
    for response, finished in zip(responses_of(responses), responses.finished.tolist(), strict=True):
        stops = [token in stop_ids for token in response]
        assert stops == [False] * (len(response) - 1) + [finished]
        assert finished or len(response) == 40
    assert 0 < int(responses.finished.sum()) < len(responses.finished)


def test_a_row_is_sampled_the_same_whether_or_not_other_rows_are_dropped(policy):
    """Dropped rows, and the lengths of others, do not change a row's random numbers."""
    prompts = [PROMPTS[0]] * 32
    without = sample(policy, prompts, temperature=3.0, length=30, stop_ids=[])
    shapes = record_shapes(policy)
    with_drops = sample(policy, prompts, temperature=3.0, length=30, stop_ids=range(0, 400, 7))
    assert shapes[-1][0] < len(prompts)  # rows were dropped
    for row, length in enumerate(with_drops.lengths.tolist()):
        assert with_drops.tokens[row, :length].tolist() == without.tokens[row, :length].tolist()


def test_finished_rows_are_dropped_once_there_are_many_and_each_step_computes_one_token(monkeypatch, policy):
    tokens = iter([[STOP] + [5] * 23, [5] + [STOP] * 14 + [5] * 9, [STOP] * 9 + [5] * 7])
    monkeypatch.setattr("rlhf.rollout.sample_tokens", lambda *args: torch.tensor(next(tokens)))
    sample(policy, [PROMPTS[0]], temperature=0.0, length=1)  # probes the model
    logits_rows, shapes = [], record_shapes(policy)
    policy.get_output_embeddings().register_forward_hook(lambda module, args, output: logits_rows.append(len(output)))
    responses = sample(policy, [PROMPTS[0]] * 24)
    # dropping 1 of 24 rows is not worth a copy of the cache, dropping 15 is; the 9 that remain are rounded up to 16
    assert shapes == [(1, len(PROMPTS[0])), (24, 1), (16, 1)] and logits_rows == [1, 24, 16]
    assert responses.lengths.tolist() == [1] + [2] * 14 + [3] * 9
    assert responses.mask.shape == (24, 3)  # as wide as the longest response
    assert responses.finished.all()


def test_a_repeated_prompt_is_read_once_and_its_responses_differ(policy):
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0], PROMPTS[1]]
    among_others = [sample(policy, prompts[:i] + [PROMPTS[2]] * (5 - i), temperature=2.0) for i in range(1, 6)]
    shapes = record_shapes(policy)
    together = sample(policy, prompts, temperature=2.0)
    assert shapes[:2] == [(2, len(PROMPTS[0])), (5, 1)]
    for i in range(5):
        assert responses_of(together)[i] == responses_of(among_others[i])[i]
    assert len({tuple(response) for response in responses_of(together)}) == 5


# --- devices ----------------------------------------------------------------------------------------------------------


def test_every_tensor_is_made_on_the_device_of_the_prompts(policy):
    """A tensor made on the default device, here another one, could not be combined with the model's."""
    input_ids, attention_mask = pad([PROMPTS[0]] * 4, PAD, "left")
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        responses = generate(
            policy, input_ids, attention_mask, response_length=9, temperature=3.0, stop_ids=SOME_STOPS, pad_id=PAD,
            generator=generator,
        )  # fmt: skip
    assert {tensor.device.type for tensor in vars(responses).values()} == {"cpu"}
    expected = sample(policy, [PROMPTS[0]] * 4, length=9, temperature=3.0, stop_ids=SOME_STOPS)
    assert expected.finished.any() and len(set(expected.lengths.tolist())) > 1
    assert torch.equal(responses.input_ids, expected.input_ids)
    assert torch.equal(responses.finished, expected.finished)


def test_random_numbers_are_moved_to_the_device_of_the_prompts(monkeypatch, policy):
    def raise_devices(probabilities, uniform):
        raise RuntimeError(probabilities.device.type, uniform.device.type)

    logits = torch.zeros(len(PROMPTS), 1, 400, device="meta")
    monkeypatch.setattr("rlhf.engine.decoding.last_states", lambda *args, **kwargs: (logits[:, 0, :1], logits[:, 0]))
    monkeypatch.setattr("rlhf.rollout.sample_tokens", raise_devices)
    input_ids, attention_mask = (tensor.to("meta") for tensor in pad(PROMPTS, PAD, "left"))
    # meta tensors have no values to compare
    monkeypatch.setattr("rlhf.engine.decoding.distinct_prompts", lambda *prompts: (*prompts, None))
    with pytest.raises(RuntimeError, match="'meta', 'meta'"):
        generate(policy, input_ids, attention_mask, response_length=2, temperature=1.0, stop_ids=[], pad_id=PAD)
