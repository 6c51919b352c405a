"""Every number of README.md and docs/ comes from a file, or is on the list of what no program measures."""

import pytest

from tests.pages import allowed
from tests.pages.blocks import BLOCKS, PAGES, PENDING, names_in, rewritten
from tests.pages.measured import PUBLISHED, Missing
from tests.pages.typed import typed_cells, typed_prose

OWN = [page for page in PAGES if page.name not in allowed.OTHER_TEST]
UPDATE = "run `python -m tests.pages`"


def name_of(page):
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_marked_block_is_what_its_file_says(page):
    text = page.read_text(encoding="utf-8")
    assert rewritten(text) == text, UPDATE


def test_every_block_is_on_one_page_and_on_no_more_than_one_of_a_language():
    originals = [page for page in PAGES if not page.name.endswith(".zh.md")]
    translated = [page for page in PAGES if page not in originals]
    in_english, in_chinese = (
        [name for page in pages for name in names_in(page.read_text(encoding="utf-8"))]
        for pages in (originals, translated)
    )
    assert len(set(in_english)) == len(in_english) and len(set(in_chinese)) == len(in_chinese)
    assert {*in_english, *in_chinese} == set(BLOCKS)


def test_a_comment_that_begins_a_block_has_its_end():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("<!-- measured:") == text.count("<!-- end -->") == len(names_in(text)), page.name


@pytest.mark.parametrize("page", OWN, ids=name_of)
def test_a_table_of_numbers_is_in_a_marked_block(page):
    cells = typed_cells(page.read_text(encoding="utf-8"))
    assert [cell for cell in cells if (page.name, cell.heading) not in allowed.TABLES] == []


@pytest.mark.parametrize("page", OWN, ids=name_of)
def test_a_measured_number_in_a_sentence_is_in_a_marked_block(page):
    assert typed_prose(page.read_text(encoding="utf-8"), allowed.PROSE.get(page.name, ())) == []


def test_everything_that_is_allowed_is_still_on_its_page():
    texts = {page.name: page.read_text(encoding="utf-8") for page in OWN}
    tables = {(name, cell.heading) for name, text in texts.items() for cell in typed_cells(text)}
    assert set(allowed.TABLES) - tables == set()
    for name, phrases in allowed.PROSE.items():
        found = typed_prose(texts[name])
        assert len(found) > len(typed_prose(texts[name], phrases)), name
        for phrase in phrases:
            without = tuple(other for other in phrases if other != phrase)
            assert typed_prose(texts[name], without), f"{name}: {phrase}"


def test_a_table_waits_for_its_file_only_as_long_as_there_is_none():
    for name in PENDING:
        with pytest.raises(Missing):
            BLOCKS[name][0]()


def test_every_file_is_read_by_a_block():
    files = {path.stem.replace("_", "-") for path in PUBLISHED.iterdir()}
    assert files <= {*BLOCKS, "runs"}
