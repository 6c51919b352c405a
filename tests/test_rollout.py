"""Sampling and scoring: what is sampled is what the log-probabilities speak of, however it was padded and batched."""

import math
from functools import partial

import pytest
import torch

from rlhf.data import pad
from rlhf.forward import States
from rlhf.logprobs import entropies, log_softmax, next_logprobs, text_logprobs
from rlhf.models import ValueHead
from rlhf.rollout import Responses, Rollout, _sample, complete, generate, response_logprobs, response_values, score
from rlhf.scoring import last_token_scores
from tests.conftest import scorer_of, tiny_gpt2, tiny_llama

PROMPTS = [[385, 328, 261, 376, 280, 294], [261, 376], [291, 280, 294]]  # words to the Llama with real weights
STOP, PAD = 0, 1


def sample(policy, prompts=PROMPTS, seed=0, temperature=1.0, length=12, stop_ids=(STOP,), **kwargs) -> Responses:
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


def watch(policy, work: list[tuple[int, int]]) -> None:
    """Has `work` note how many rows of how many tokens each pass is given."""
    policy.base_model.register_forward_hook(
        lambda module, args, kwargs, output: work.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
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
    logprobs, values = response_logprobs(policy, responses, temperature)
    assert values is None
    for i, response in enumerate(responses_of(responses)):
        alone = logprobs_alone(policy, PROMPTS[i], response, temperature)
        torch.testing.assert_close(logprobs[i, : len(response)], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_log_probability_with_which_a_token_is_drawn_is_that_of_its_sequence_alone(policy, temperature):
    """The decoder reads keys and values from its cache, and drops rows that have ended."""
    stop_ids = range(0, 400, 3)
    responses = sample(policy, PROMPTS * 5, temperature=temperature, length=12, stop_ids=stop_ids)
    assert len(set(responses.lengths.tolist())) > 2
    assert responses.logprobs.shape == responses.mask.shape
    for i, response in enumerate(responses_of(responses)):
        alone = logprobs_alone(policy, PROMPTS[i % len(PROMPTS)], response, temperature)
        torch.testing.assert_close(responses.logprobs[i, : len(response)], alone, atol=1e-5, rtol=1e-5)


def test_greedy_decoding_draws_nothing(policy):
    responses = sample(policy, temperature=0.0)
    assert responses.logprobs.abs().sum() == responses.entropies.abs().sum() == 0


def test_more_padding_on_both_sides_does_not_change_logprobs_or_values(policy):
    responses, value_model = sample(policy), scorer_of(policy)
    wide = Responses(
        torch.nn.functional.pad(responses.input_ids, (4, 3), value=PAD),
        torch.nn.functional.pad(responses.attention_mask, (4, 3)),
        torch.nn.functional.pad(responses.mask, (0, 3)),
        responses.ended,
        responses.source,
        torch.nn.functional.pad(responses.logprobs, (0, 3)),
        torch.nn.functional.pad(responses.entropies, (0, 3)),
        torch.nn.functional.pad(responses.values, (0, 3)),
    )
    width = responses.mask.shape[1]
    for narrow, padded in [
        (response_logprobs(policy, given, 0.7)[0] for given in (responses, wide)),
        (response_values(value_model, given) for given in (responses, wide)),
    ]:
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


def test_entropy_of_equal_logits_is_that_of_the_uniform_distribution_and_what_can_not_be_adds_nothing():
    for logits, count in ((torch.zeros(1, 2, 8), 8.0), (torch.tensor([[[0.0, -torch.inf, 0.0]]]), 2.0)):
        distribution = log_softmax(logits, temperature=0.5)
        found = entropies(distribution, distribution.exp())
        torch.testing.assert_close(found, torch.full(logits.shape[:2], count).log())


def test_a_token_belongs_to_the_state_before_it():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 5.0]])
    asked = torch.tensor([0, 1])  # whose next tokens are 0 and 1
    said = States(torch.tensor([1, 0, 1]), asked, torch.empty(2, 0), lambda some: logits[asked][some])
    found = next_logprobs(said, 1.0)
    torch.testing.assert_close(found, -torch.tensor([1 + math.e, 1 + math.exp(2)]).log())


def test_log_probabilities_made_piece_by_piece_are_the_same_and_so_are_their_gradients(policy, monkeypatch):
    documents = pad([[5, 6, 7, 8, 0], [9, 10, 0]], PAD, "right")
    policy.double()  # the gradients of pieces are summed in another order

    def both():
        policy.zero_grad()
        logprobs, _ = text_logprobs(policy, *documents)
        (logprobs * torch.arange(logprobs.numel()).view(logprobs.shape)).sum().backward()
        return logprobs.detach(), [p.grad.clone() for p in policy.parameters() if p.grad is not None]

    whole = both()
    most = []
    monkeypatch.setattr("rlhf.logprobs.LOGITS", 2 * policy.config.vocab_size)
    monkeypatch.setattr(
        "rlhf.logprobs.log_softmax", lambda logits, t: most.append(len(logits)) or log_softmax(logits, t)
    )
    pieces = both()
    assert most == [2, 2, 2] * 2  # six tokens, two at a time, and again for the gradient
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1.3e-6)


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


def test_six_tokens_that_are_equally_likely_share_the_unit_interval_equally():
    edges = (torch.arange(6, dtype=torch.float64)[:, None] + torch.tensor([0.01, 0.99])).flatten() / 6
    tokens = _sample(torch.full((12, 6), 1 / 6), edges)
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53], ids=["lowest", "highest"])
def test_a_token_of_probability_zero_is_never_sampled(uniform):
    """At both ends of what torch.rand can draw; the sum of the probabilities is a little off 1, above or below."""
    logits = torch.randn(500, 60, generator=torch.Generator().manual_seed(0))
    logits[:, [0, 1, 30, 58, 59]] = -torch.inf
    tokens = _sample(torch.softmax(logits, dim=-1), torch.full((500,), uniform, dtype=torch.float64))
    assert set(tokens.tolist()) == {2 if uniform == 0 else 57}


def test_logits_that_are_no_numbers_give_a_token_of_the_vocabulary():
    """On a GPU another one would end the process, before anyone could say what is wrong."""
    tokens = _sample(torch.full((2, 6), torch.nan), torch.tensor([0.0, 0.9], dtype=torch.float64))
    assert (tokens < 6).all()


def test_tokens_rarer_than_single_precision_can_tell_apart_are_sampled(monkeypatch, policy):
    """Single-precision random numbers are multiples of 2 ** -24: a token less likely than that may have none."""
    drawn = []
    monkeypatch.setattr("rlhf.rollout._sample", lambda *args: drawn.append(args[1]) or _sample(*args))
    sample(policy)
    assert (torch.cat(drawn) * 2**24 % 1 != 0).any()


def test_small_probabilities_after_a_large_one_are_not_lost_in_their_sum():
    """In single precision 0.5 + 2 ** -27 is 0.5: of the thousand rare tokens none could be drawn."""
    probabilities = torch.cat(
        [torch.tensor([0.5]), torch.full((1000,), 2.0**-27), torch.tensor([0.5 - 1000 * 2.0**-27])]
    )
    uniforms = 0.5 + (torch.tensor([0, 500, 999]) + 0.5).double() * 2.0**-27
    assert _sample(probabilities.expand(3, -1), uniforms).tolist() == [1, 501, 1000]


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


def test_finished_rows_leave_the_batch_once_they_are_many_and_a_step_computes_one_token(monkeypatch, policy):
    chosen = iter([[STOP] + [5] * 23, [5] + [STOP] * 14 + [5] * 9, [STOP] * 9 + [5] * 7])
    monkeypatch.setattr("rlhf.rollout._sample", lambda *args: torch.tensor(next(chosen)))
    sample(policy, [PROMPTS[0]], temperature=0.0, length=1)  # what the model allows has been tried
    work, made = [], []
    watch(policy, work)
    policy.get_output_embeddings().register_forward_hook(lambda module, args, output: made.append(len(output)))
    responses = sample(policy, [PROMPTS[0]] * 24)
    # rows and tokens of each step: one row of 24 is not worth the copy of the cache, 15 are; 9 stay, filled up to 16
    assert work == [(1, len(PROMPTS[0])), (24, 1), (16, 1)] and made == [1, 24, 16]
    assert responses.lengths.tolist() == [1] + [2] * 14 + [3] * 9
    assert responses.mask.shape == (24, 3)  # no wider than the longest
    assert responses.ended.all()


def test_a_prompt_that_is_answered_several_times_is_read_once_and_each_answer_is_its_own(policy):
    work, prompts = [], [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0], PROMPTS[1]]
    alone = [sample(policy, prompts[:i] + [PROMPTS[2]] * (5 - i), temperature=2.0) for i in range(1, 6)]
    watch(policy, work)
    together = sample(policy, prompts, temperature=2.0)
    assert work[:2] == [(2, len(PROMPTS[0])), (5, 1)]
    for i in range(5):
        assert responses_of(together)[i] == responses_of(alone[i])[i]
    assert len({tuple(response) for response in responses_of(together)}) == 5


def test_everything_it_makes_is_on_the_device_of_the_prompts(policy):
    """With another default device, a tensor that is made without a word about its own could not meet the model's."""
    input_ids, attention_mask = pad([PROMPTS[0]] * 4, PAD, "left")
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        responses = generate(
            policy, input_ids, attention_mask, response_length=9, temperature=3.0, stop_ids=range(0, 400, 3), pad_id=PAD,
            generator=generator,
        )  # fmt: skip
    assert {tensor.device.type for tensor in vars(responses).values()} == {"cpu"}
    expected = sample(policy, [PROMPTS[0]] * 4, length=9, temperature=3.0, stop_ids=range(0, 400, 3))
    assert expected.ended.any() and len(set(expected.lengths.tolist())) > 1
    assert torch.equal(responses.input_ids, expected.input_ids)
    assert torch.equal(responses.ended, expected.ended)


def test_random_numbers_go_to_the_device_of_the_prompts(monkeypatch, policy):
    def look(probabilities, uniform):
        raise RuntimeError(probabilities.device.type, uniform.device.type)

    logits = torch.zeros(len(PROMPTS), 1, 400, device="meta")
    monkeypatch.setattr("rlhf.rollout.last_states", lambda *args, **kwargs: (logits[:, 0, :1], logits[:, 0]))
    monkeypatch.setattr("rlhf.rollout._sample", look)
    input_ids, attention_mask = (tensor.to("meta") for tensor in pad(PROMPTS, PAD, "left"))
    monkeypatch.setattr("rlhf.rollout.same_prompts", lambda *prompts: (*prompts, None))  # meta tensors have no numbers
    with pytest.raises(RuntimeError, match="'meta', 'meta'"):
        generate(policy, input_ids, attention_mask, response_length=2, temperature=1.0, stop_ids=[], pad_id=PAD)


def test_complete_keeps_the_order_of_prompts_and_the_words_without_special_tokens(policy, tokenizer):
    prompts = [[20 + i] * (1 + i % 3) for i in range(7)]
    completions = complete(policy, tokenizer, prompts, response_length=6, temperature=0, seed=0, batch_size=2)
    for prompt, completion in zip(prompts, completions, strict=True):
        alone = sample(policy, [prompt], temperature=0, length=6)
        assert completion.ids == responses_of(alone)[0]
        assert completion.ended == bool(alone.ended)
        assert "<|" not in completion.text


def test_complete_is_the_same_for_a_seed_and_another_for_another_and_says_how_far_it_is(policy, tokenizer):
    prompts, done = [[20 + i] for i in range(7)], []

    def ids(seed, **kwargs):
        options = {"response_length": 6, "temperature": 1.0, "seed": seed, "batch_size": 3}
        return [completion.ids for completion in complete(policy, tokenizer, prompts, **options, **kwargs)]

    assert ids(0) == ids(0, progress=done.append) != ids(1)
    assert done == [3, 3, 1]


def test_an_interrupted_complete_goes_on_to_the_same_responses_and_samples_only_what_is_missing(
    policy, tokenizer, monkeypatch
):
    prompts, done, sampled = [[20 + i] * (1 + i // 3) for i in range(7)], [], []
    options = {"response_length": 6, "temperature": 1.0, "seed": 0, "batch_size": 2}
    whole = complete(policy, tokenizer, prompts, **options)

    def look(model, input_ids, *args, **kwargs):
        sampled.append(len(input_ids))
        return generate(model, input_ids, *args, **kwargs)

    monkeypatch.setattr("rlhf.rollout.generate", look)
    # the first and third batch are there, of the second one response, of the last none
    kept = [whole[0], whole[1], whole[2], None, whole[4], whole[5], None]
    assert complete(policy, tokenizer, prompts, **options, completions=kept, progress=done.append) is kept
    assert kept == whole
    assert sampled == [2, 1]
    assert done == [2, 2, 2, 1]


def test_the_text_of_a_completion_is_its_tokens_without_the_eos_it_ends_with(policy, tokenizer):
    def wants_to_end(module, args, output):
        output[..., tokenizer.pad_token_id] = -torch.inf
        output[..., tokenizer.eos_token_id] = output.amax(dim=-1)

    policy.get_output_embeddings().register_forward_hook(wants_to_end)
    prompts = [[20 + i] for i in range(20)]
    completions = complete(policy, tokenizer, prompts, response_length=12, temperature=1.0, seed=0)
    ended = [completion for completion in completions if completion.ended and len(completion.ids) > 1]
    assert ended
    for completion in ended:
        assert completion.ids[-1] == tokenizer.eos_token_id
        assert completion.text == tokenizer.decode(completion.ids[:-1])


def test_prompts_share_a_batch_with_others_of_their_length(policy, tokenizer, monkeypatch):
    batches = []

    def look(model, input_ids, attention_mask, **kwargs):
        batches.append(attention_mask.sum(dim=1).tolist())
        return generate(model, input_ids, attention_mask, **kwargs)

    monkeypatch.setattr("rlhf.rollout.generate", look)
    prompts = [[5], [6, 7], [8], [9, 10]]
    complete(policy, tokenizer, prompts, response_length=2, temperature=1.0, seed=0, batch_size=2)
    assert batches == [[1, 1], [2, 2]]


def test_prompts_go_to_the_device_of_the_model(policy, tokenizer, monkeypatch):
    def elsewhere(model, input_ids, attention_mask, **kwargs):
        raise RuntimeError(input_ids.device.type, attention_mask.device.type)

    monkeypatch.setattr("rlhf.rollout.generate", elsewhere)
    with pytest.raises(RuntimeError, match="'meta', 'meta'"):
        complete(policy.to("meta"), tokenizer, [[5]], response_length=2, temperature=1.0, seed=0)


# --- scoring ----------------------------------------------------------------------------------------------------------


def test_the_order_of_a_batch_changes_nothing_but_the_order(policy):
    responses, order = sample(policy), torch.tensor([2, 0, 1])

    def everything(batch):
        models = {"reference": policy, "value_model": scorer_of(policy)}
        reward = partial(last_token_scores, scorer_of(policy))
        return vars(score(batch, **models, reward=reward, temperature=1.0, chunk=3))

    for one, other in zip(everything(responses.select(order)).values(), everything(responses).values(), strict=True):
        torch.testing.assert_close(one, other[order], atol=1e-4, rtol=1e-4)


def test_value_of_a_token_is_that_of_the_prompt_and_the_tokens_before_it(policy):
    responses, value_model = sample(policy), scorer_of(policy)
    values = response_values(value_model, responses)
    for i, response in enumerate(responses_of(responses)):
        for t in range(len(response)):
            prefix = torch.tensor([PROMPTS[i] + response[:t]])
            alone = value_model(prefix, torch.ones_like(prefix))[-1]
            torch.testing.assert_close(values[i, t], alone, atol=1e-4, rtol=1e-4)


def test_a_value_head_on_the_trunk_reads_the_policys_last_hidden_state(policy):
    responses, head = sample(policy), ValueHead(policy.config.hidden_size)
    torch.nn.init.normal_(head.score.weight)
    _, values = response_logprobs(policy, responses, 1.0, head)
    prefix = torch.tensor([PROMPTS[1]])
    hidden = policy.base_model(input_ids=prefix).last_hidden_state[0, -1]
    torch.testing.assert_close(values[1, 0], head(hidden[None, None])[0, 0], atol=1e-5, rtol=1e-5)


def test_the_values_of_a_head_on_the_trunk_are_read_at_sampling(policy):
    """As a pass over the finished responses reads them, though rows that end are dropped on the way."""
    head = ValueHead(policy.config.hidden_size)
    torch.nn.init.normal_(head.score.weight)
    responses = sample(policy, PROMPTS * 5, stop_ids=range(0, 400, 3), value_head=head)
    assert len(set(responses.lengths.tolist())) > 2
    rollout = score(
        responses, reference=policy, value_model=head, reward=lambda part: part.lengths, temperature=1.0, chunk=4
    )
    _, values = response_logprobs(policy, responses, 1.0, head)
    assert values.abs().max() > 0.1
    torch.testing.assert_close(rollout.values, values, atol=1e-5, rtol=1e-5)


def test_the_values_of_a_separate_model_are_its_own(policy):
    responses, value_model = sample(policy), scorer_of(policy)
    rollout = score(
        responses, reference=policy, value_model=value_model, reward=lambda part: part.lengths, temperature=1.0, chunk=9
    )
    ids = responses.input_ids[1][responses.attention_mask[1].bool()]
    alone = value_model(ids[None], torch.ones_like(ids)[None])[len(PROMPTS[1]) - 1 : -1]
    torch.testing.assert_close(rollout.values[1, : len(alone)], alone, atol=1e-5, rtol=1e-5)
    assert alone.abs().max() > 0.01


def test_what_is_no_token_of_a_response_has_no_numbers(policy):
    responses = sample(policy, PROMPTS * 5, stop_ids=range(0, 400, 3))
    assert not responses.mask.all()
    for numbers in (responses.logprobs, responses.entropies, responses.values):
        assert not numbers[~responses.mask].any()


def test_kl_of_a_response_is_the_sum_of_its_tokens_log_ratios():
    zeros, logprobs, ref_logprobs = torch.zeros(2, 2), [[-1.0, -2.0], [-1.0, 9.0]], [[-1.5, -1.0], [-3.0, 7.0]]
    rollout = Rollout(
        input_ids=zeros, attention_mask=zeros, mask=torch.tensor([[True, True], [True, False]]),
        ended=zeros[0], source=zeros[0], logprobs=torch.tensor(logprobs), ref_logprobs=torch.tensor(ref_logprobs),
        entropies=zeros, values=zeros, scores=zeros[0],
    )  # fmt: skip
    assert rollout.kls.tolist() == [-0.5, 2.0]  # 0.5 - 1; 2


def test_sampling_and_scoring_remember_nothing_for_a_gradient(policy):
    responses, value_model = sample(policy), scorer_of(policy)
    rollout = score(
        responses, reference=policy, value_model=value_model,
        reward=partial(last_token_scores, value_model), temperature=1.0, chunk=2,
    )  # fmt: skip
    assert not any(tensor.requires_grad for tensor in vars(rollout).values())


def test_scoring_in_chunks_gives_what_scoring_at_once_gives():
    policy, reference = tiny_gpt2().eval(), tiny_llama().eval()
    responses, value_model = sample(policy), scorer_of(policy)

    def rollout(chunk):
        return score(
            responses, reference=reference, value_model=value_model,
            reward=lambda part: part.lengths.float(), temperature=1.0, chunk=chunk,
        )  # fmt: skip

    assert torch.equal(rollout(2).input_ids, responses.input_ids)
    for one, other in zip(vars(rollout(1)).values(), vars(rollout(99)).values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
