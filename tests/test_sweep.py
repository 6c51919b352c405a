"""Every family of causal language models gives the results of transformers, or is refused with a reason."""

import pytest

from tests.families import model_types, tiny_model
from tests.sweep import PAGE, a_tokenizer, examine, is_on_page

# packed and plain, own class and our head; text parts of vision-language models; refused
QUICK = "llama olmoe gemma3_text gemma4 qwen3_5_moe llama4 lfm2 falcon_h1 minimax mamba roberta".split()


def check(family, model, folder) -> None:
    result = examine(model, family, a_tokenizer(), folder / "model")
    assert is_on_page(result, PAGE.read_text()), f"run `python -m tests.sweep`: {result}"


@pytest.mark.parametrize("family", QUICK)
def test_a_family_has_the_results_of_transformers_and_the_support_that_the_page_says(family, tmp_path):
    check(family, tiny_model(family), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(model_types()) - set(QUICK)))
def test_every_family_has_the_results_of_transformers_or_is_refused(family, tmp_path):
    try:
        model = tiny_model(family)
    except Exception as error:
        pytest.skip(f"no tiny model: {type(error).__name__}: {error}")
    check(family, model, tmp_path)
