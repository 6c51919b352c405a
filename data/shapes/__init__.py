"""Rows of public data sets become rows of this project.

`table.SHAPES` lists the known shapes, `recognise.rows_of` applies them; docs/data-sets.md shows the same table.
"""

from data.shapes.recognise import ANSWERS, rows_of
from data.shapes.table import SHAPES, Shape

__all__ = ["ANSWERS", "SHAPES", "Shape", "rows_of"]
