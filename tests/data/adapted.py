"""What the rows of public data sets become."""

from data.shapes import rows_of
from rlhf.rows import Tally, valid_rows
from tests.data.public_rows import said

USER, ASSISTANT = said("Hi", "Hello!")


def rows_and_tally(raw, kind, **options):
    """The checked rows that a raw row, or a list of consecutive ones, becomes, and the tally."""
    tally = Tally()
    raw_rows = [(f"f:{i}", row) for i, row in enumerate(raw if isinstance(raw, list) else [raw], 1)]
    return list(valid_rows(rows_of(raw_rows, kind, tally, **options), kind, tally)), tally


def adapted(raw, kind, **options):
    """The checked rows that a raw row becomes, and the reasons for which rows were dropped."""
    rows, tally = rows_and_tally(raw, kind, **options)
    return rows, dict(tally.dropped)
