"""Log-probabilities, values and scores of a batch are those of each response alone."""

from functools import partial

import pytest
import torch

from rlhf.models import ValueHead
from rlhf.rollout import Responses, Rollout, response_logprobs, response_values, score_responses
from rlhf.scoring import reward_model_scores
from tests.conftest import scorer_of, tiny_gpt2, tiny_llama
from tests.responses import PAD, PROMPTS, logprobs_alone, responses_of, sample


def lengths(responses: Responses) -> torch.Tensor:
    """A reward that needs no model: the length of each response."""
    return responses.lengths.float()


# --- log-probabilities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_of_a_padded_batch_are_those_of_each_sequence_alone(policy, temperature):
    responses = sample(policy, temperature=temperature)
    logprobs, values = response_logprobs(policy, responses, temperature)
    assert values is None
    for i, response in enumerate(responses_of(responses)):
        alone = logprobs_alone(policy, PROMPTS[i], response, temperature)
        torch.testing.assert_close(logprobs[i, : len(response)], alone, atol=1e-5, rtol=1e-5)


def test_more_padding_on_both_sides_does_not_change_logprobs_or_values(policy):
    responses, value_model = sample(policy), scorer_of(policy)
    wide = Responses(
        torch.nn.functional.pad(responses.input_ids, (4, 3), value=PAD),
        torch.nn.functional.pad(responses.attention_mask, (4, 3)),
        torch.nn.functional.pad(responses.mask, (0, 3)),
        responses.finished,
        responses.prompt_index,
        torch.nn.functional.pad(responses.logprobs, (0, 3)),
        torch.nn.functional.pad(responses.entropies, (0, 3)),
        torch.nn.functional.pad(responses.values, (0, 3)),
    )
    width = responses.mask.shape[1]
    for narrow, padded in [
        (response_logprobs(policy, batch, 0.7)[0] for batch in (responses, wide)),
        (response_values(value_model, batch) for batch in (responses, wide)),
    ]:
        torch.testing.assert_close(padded[:, :width][responses.mask], narrow[responses.mask], atol=1e-4, rtol=1e-4)
    trimmed = wide.trimmed()
    assert torch.equal(trimmed.input_ids, responses.input_ids)
    assert torch.equal(trimmed.mask, responses.mask)


def test_logprobs_entropies_and_values_are_zero_outside_the_mask(policy):
    responses = sample(policy, PROMPTS * 5, stop_ids=range(0, 400, 3))
    assert not responses.mask.all()
    for numbers in (responses.logprobs, responses.entropies, responses.values):
        assert not numbers[~responses.mask].any()


def test_the_kl_of_a_response_is_the_sum_of_its_tokens_log_ratios():
    zeros, logprobs, ref_logprobs = torch.zeros(2, 2), [[-1.0, -2.0], [-1.0, 9.0]], [[-1.5, -1.0], [-3.0, 7.0]]
    rollout = Rollout(
        input_ids=zeros, attention_mask=zeros, mask=torch.tensor([[True, True], [True, False]]),
        finished=zeros[0], prompt_index=zeros[0], logprobs=torch.tensor(logprobs),
        ref_logprobs=torch.tensor(ref_logprobs), entropies=zeros, values=zeros, scores=zeros[0],
    )  # fmt: skip
    assert rollout.kls.tolist() == [-0.5, 2.0]  # 0.5 - 1; 2


# --- values -----------------------------------------------------------------------------------------------------------


def test_the_value_of_a_token_is_read_from_the_prompt_and_the_tokens_before_it(policy):
    responses, value_model = sample(policy), scorer_of(policy)
    values = response_values(value_model, responses)
    for i, response in enumerate(responses_of(responses)):
        for t in range(len(response)):
            prefix = torch.tensor([PROMPTS[i] + response[:t]])
            alone = value_model(prefix, torch.ones_like(prefix))[-1]
            torch.testing.assert_close(values[i, t], alone, atol=1e-4, rtol=1e-4)


def test_a_value_head_reads_the_last_hidden_state_of_the_policy(policy):
    responses, head = sample(policy), ValueHead(policy.config.hidden_size)
    torch.nn.init.normal_(head.score.weight)
    _, values = response_logprobs(policy, responses, 1.0, head)
    prefix = torch.tensor([PROMPTS[1]])
    hidden = policy.base_model(input_ids=prefix).last_hidden_state[0, -1]
    torch.testing.assert_close(values[1, 0], head(hidden[None, None])[0, 0], atol=1e-5, rtol=1e-5)


def test_values_of_a_value_head_at_sampling_are_those_of_a_pass_over_the_finished_responses(policy):
    """Although the decoder drops finished rows."""
    head = ValueHead(policy.config.hidden_size)
    torch.nn.init.normal_(head.score.weight)
    responses = sample(policy, PROMPTS * 5, stop_ids=range(0, 400, 3), value_head=head)
    assert len(set(responses.lengths.tolist())) > 2
    rollout = score_responses(
        responses, reference=policy, value_model=head, reward=lambda part: part.lengths, temperature=1.0, chunk=4
    )
    _, values = response_logprobs(policy, responses, 1.0, head)
    assert values.abs().max() > 0.1
    torch.testing.assert_close(rollout.values, values, atol=1e-5, rtol=1e-5)


def test_values_of_a_separate_value_model_come_from_that_model(policy):
    responses, value_model = sample(policy), scorer_of(policy)
    rollout = score_responses(
        responses, reference=policy, value_model=value_model, reward=lambda part: part.lengths, temperature=1.0, chunk=9
    )
    ids = responses.input_ids[1][responses.attention_mask[1].bool()]
    alone = value_model(ids[None], torch.ones_like(ids)[None])[len(PROMPTS[1]) - 1 : -1]
    torch.testing.assert_close(rollout.values[1, : len(alone)], alone, atol=1e-5, rtol=1e-5)
    assert alone.abs().max() > 0.01


# --- a batch ----------------------------------------------------------------------------------------------------------


def test_reordering_a_batch_only_reorders_its_results(policy):
    responses, order = sample(policy), torch.tensor([2, 0, 1])

    def scored(batch):
        models = {"reference": policy, "value_model": scorer_of(policy)}
        reward = partial(reward_model_scores, scorer_of(policy))
        return vars(score_responses(batch, **models, reward=reward, temperature=1.0, chunk=3))

    for one, other in zip(scored(responses.select(order)).values(), scored(responses).values(), strict=True):
        torch.testing.assert_close(one, other[order], atol=1e-4, rtol=1e-4)


def test_scoring_keeps_no_gradients(policy):
    responses, value_model = sample(policy), scorer_of(policy)
    rollout = score_responses(
        responses, reference=policy, value_model=value_model,
        reward=partial(reward_model_scores, value_model), temperature=1.0, chunk=2,
    )  # fmt: skip
    assert not any(tensor.requires_grad for tensor in vars(rollout).values())


def test_scoring_in_chunks_equals_scoring_at_once():
    policy, reference = tiny_gpt2().eval(), tiny_llama().eval()
    responses, value_model = sample(policy), scorer_of(policy)

    def rollout(chunk):
        return score_responses(
            responses, reference=reference, value_model=value_model, reward=lengths, temperature=1.0, chunk=chunk
        )

    assert torch.equal(rollout(2).input_ids, responses.input_ids)
    for one, other in zip(vars(rollout(1)).values(), vars(rollout(99)).values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
