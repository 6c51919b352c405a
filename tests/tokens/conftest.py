"""Tokenizers for the tests of token ids."""

import pytest

from rlhf.tokens import load_tokenizer


@pytest.fixture(params=["new", "gpt2", "llama"])
def any_tokenizer(request):
    """A new tokenizer as the pipeline trains it, GPT-2's, and a Llama's, which puts a space before the first word."""
    if request.param == "new":
        return request.getfixturevalue("tokenizer")
    folder = {"gpt2": "tokenizers/gpt2", "llama": "models/stories260K"}[request.param]
    return load_tokenizer(request.getfixturevalue("shared") / folder)
