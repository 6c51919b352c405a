"""The pages of experiments say what their tables say."""

import pytest

from rlhf.run.files import read_json
from stages.experiments.__main__ import load, names
from stages.experiments.output import DOCS, FACTS, page_of, read_table, section
from tests.forks import ROOT

PUBLISHED = read_json(ROOT / DOCS / FACTS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_section_of_an_experiment_is_that_of_its_table(name):
    rows = read_table(ROOT / DOCS / f"{name}.csv")
    page = (ROOT / page_of(load(name))).read_text()
    assert section(name, load(name), rows, PUBLISHED[name]) in page + "\n"


def test_every_published_experiment_has_a_table_and_a_picture_and_no_other_file_lies_there():
    files = {path.name for path in (ROOT / DOCS).iterdir()}
    assert files == {FACTS} | {f"{name}.{suffix}" for name in PUBLISHED for suffix in ("csv", "png")}
    assert set(PUBLISHED) <= set(names())


def test_an_experiment_takes_at_most_a_quarter_of_an_hour():
    minutes = {name: facts["minutes"] for name, facts in PUBLISHED.items() if "minutes" in facts}
    assert minutes
    assert {name: taken for name, taken in minutes.items() if taken > 15} == {}
