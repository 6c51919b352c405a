"""What counts as a number that was typed into a page."""

import pytest

from tests.pages.typed import typed_cells, typed_prose

TABLE = """# Page

## Results

| model | gold |
|---|---|
| SFT | {} |
"""


@pytest.mark.parametrize("cell", ["4.01", "62 %", "**.74**", "1.26 / 6.40", "3,600", "7 s", "1.5 (1.4–1.6)", "12"])
def test_a_typed_table_is_found_with_its_heading(cell):
    (found,) = typed_cells(TABLE.format(cell))
    assert (found.heading, found.text) == ("Results", cell)


@pytest.mark.parametrize(
    "cell", ["", "–", "`0.25`", "rlhf/ppo.py", "arXiv 2402.03300", "GPT-2", "of TRL 1.12", "K = 4"]
)
def test_names_and_code_in_a_table_are_no_numbers(cell):
    assert typed_cells(TABLE.format(cell)) == []


def test_a_table_in_a_marked_block_or_in_code_is_not_typed():
    table = TABLE.format("4.01").partition("## Results\n")[2]
    assert typed_cells(f"<!-- measured: default -->\n{table}\n<!-- end -->\n") == []
    assert typed_cells(f"```\n{table}```\n") == []


@pytest.mark.parametrize(
    "words",
    ["takes 3.2 of it", "a fifth, 19 %, less", "takes 40 s", "about 7 minutes", "needs 3 GB", "is 6 times as fast"],
)
def test_a_typed_number_in_a_sentence_is_found(words):
    assert [number.heading for number in typed_prose(f"# Page\n\nIt {words}\nand more.\n")] == ["Page"]


@pytest.mark.parametrize(
    "words",
    [
        "`kl_coef: 0.1` and [a page](a-1.5.md)",
        "TRL\n1.16 and Python 3.11 or newer",
        "arXiv\n2210.10760, section 3.5, appendix E.6",
        "the 95 % intervals",
        "on 2026-11-28",
        "K = 4 completions of 3,000 prompts",
        "32 steps in place of 95",
    ],
)
def test_versions_papers_dates_and_counts_are_not_measured(words):
    assert typed_prose(f"# Page\n\nIt has {words}.\n") == []


def test_only_the_allowed_words_are_allowed():
    page = "# Page\n\nThe criterion is below 0.01\nnats; it was 0.02 nats.\n"
    (found,) = typed_prose(page, ["criterion is below 0.01 nats"])
    assert "0.02" in found.text
