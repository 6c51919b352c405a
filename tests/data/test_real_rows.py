"""Shapes on real files and on the small inputs of users: every row is used, or counted with its reason."""

import pytest

from data.shapes import rows_of
from data.sources import read_source
from rlhf.rows import Tally, valid_rows
from tests.data.public_rows import said

REAL = {
    "text": ["text/tinyshakespeare.txt", "text/sotu_1790_2021.txt"],
    "demonstrations": ["demonstrations/*.jsonl", "demonstrations/*.json"],
    "comparisons": [
        "comparisons/hh_harmless.jsonl.gz",
        "comparisons/oasst_en_rankings.jsonl",
        "comparisons/oasst_rm_zh.json",
    ],
    "prompts": ["prompts/oasst_250.jsonl"],
}


@pytest.mark.parametrize("kind", list(REAL))
def test_every_row_of_real_files_is_used_or_counted_with_its_reason(shared, kind):
    for source in REAL[kind]:
        tally = Tally()
        raw_rows = list(read_source(source, str(shared), "paragraph"))
        for where, raw in raw_rows:
            before = tally.used + tally.dropped.total()
            list(valid_rows(rows_of([(where, raw)], kind, tally), kind, tally))
            assert tally.used + tally.dropped.total() > before, where
        assert tally.used > 0.9 * len(raw_rows), tally


COMPARISONS = "nectar ultrafeedback_raw webgpt saferlhf helpsteer sff orca_dpo silent lf_dpo oasst_tree kto hh_double_human".split()
DEMONSTRATIONS = (
    "null_prompt null_messages str_messages toolcalls system_mid multi_assistant bom_crlf control_characters".split()
)
USED = {"helpsteer": 8, "silent": 6, "kto": 0, "control_characters": 30}  # the others: 12
DROPPED = {"helpsteer": 4, "kto": 12}


@pytest.mark.parametrize("name", [*COMPARISONS, *DEMONSTRATIONS])
def test_the_small_inputs_of_users_give_the_rows_that_their_list_says(shared, name):
    path = shared.parent / "cases" / "rows" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no file at {path}")
    kind, tally = "comparisons" if name in COMPARISONS else "demonstrations", Tally()
    rows = list(valid_rows(rows_of(read_source(str(path), None, "line"), kind, tally), kind, tally))
    assert len(rows) == USED.get(name, 12) and tally.dropped.total() == DROPPED.get(name, 0)
    if name == "silent":
        assert rows[0]["prompt"] == said("what is 1+2?")
