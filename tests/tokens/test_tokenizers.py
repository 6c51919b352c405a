"""New tokenizers, comparing vocabularies, and folders without a tokenizer."""

import copy

import pytest

from rlhf import InputError
from rlhf.tokens import load_tokenizer, new_tokenizer, same_vocabulary


def test_a_new_tokenizer_restores_any_text_and_is_the_same_each_time():
    text = ["Anna has a cat. Ünïcödé 你好 🦊\n\ttabs"] * 3
    first, second = (new_tokenizer(text, 300) for _ in range(2))
    assert first.decode(first(text[0]).input_ids) == text[0]
    assert first.get_vocab() == second.get_vocab()
    assert 256 + 2 < len(first) <= 300  # every byte, eos, pad and some merges


def test_vocabularies_are_compared_without_special_tokens(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.add_special_tokens({"pad_token": "<another pad>"})
    assert same_vocabulary(tokenizer, other)
    assert not same_vocabulary(tokenizer, new_tokenizer(["cats and dogs"] * 9, 300))


def test_a_folder_that_does_not_exist_has_no_tokenizer(tmp_path):
    with pytest.raises(InputError, match="no tokenizer"):
        load_tokenizer(tmp_path / "nothing")
