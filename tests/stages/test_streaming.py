"""A streamed response has the tokens and the text of one that is sampled whole."""

import pytest

from rlhf.models import stop_token_ids
from rlhf.rollout import sample_completions
from stages.common.streaming import stream_text, stream_tokens
from tests.conftest import tiny_gpt2

PROMPT = [5, 6, 7, 8, 9]


def streamed(policy, tokenizer, temperature, seed, length):
    stops = stop_token_ids(policy, tokenizer)
    tokens = stream_tokens(
        policy, PROMPT, response_length=length, temperature=temperature, seed=seed, stop_ids=stops
    )  # fmt: skip
    return list(tokens)


@pytest.mark.parametrize("temperature", [0, 0.7, 1.0])
def test_the_tokens_are_those_of_a_completion_sampled_with_the_same_seed(policy, tokenizer, temperature):
    for seed in range(4):
        whole = sample_completions(
            policy, tokenizer, [PROMPT], response_length=40, temperature=temperature, seed=seed
        )[0]  # fmt: skip
        assert streamed(policy, tokenizer, temperature, seed, 40) == whole.ids
        # a longer limit does not change the tokens before it
        assert streamed(policy, tokenizer, temperature, seed, 50)[: len(whole.ids)] == whole.ids


def test_a_response_ends_with_the_first_stop_token(tokenizer):
    tokens = stream_tokens(
        tiny_gpt2().eval(), PROMPT, response_length=50, temperature=1.0, seed=0, stop_ids=range(0, 400, 3)
    )  # fmt: skip
    tokens = list(tokens)
    assert [token % 3 == 0 for token in tokens] == [False] * (len(tokens) - 1) + [True]


def test_closing_a_stream_gives_the_model_its_layers_back(tokenizer):
    policy = tiny_gpt2().eval()
    tokens = stream_tokens(policy, PROMPT, response_length=50, temperature=1.0, seed=0, stop_ids=[])
    next(tokens)
    tokens.close()
    assert not [module for module in policy.modules() if "forward" in vars(module)]


def test_characters_that_span_tokens_come_whole(tokenizer):
    text = "a hedgehog 🦔, héllo, 世界 and 👩‍🚀."
    ids = tokenizer(text).input_ids
    assert len(ids) > len(text)  # the small vocabulary has single bytes for these characters
    pieces = list(stream_text(tokenizer, ids))
    assert "".join(pieces) == text
    assert not [piece for piece in pieces if "\ufffd" in piece]
    assert "🦔" in "|".join(pieces) and len(pieces) > 10


def test_bytes_that_are_no_character_are_decoded_as_in_the_whole_text(tokenizer):
    half = tokenizer("🦔").input_ids[:2]
    for ids in (half, [*half, *tokenizer("dog ").input_ids], [*half, tokenizer.eos_token_id]):
        assert "".join(stream_text(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)
