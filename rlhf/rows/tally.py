"""Counts of used and dropped rows."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
# a reason that drops no row: its text contains special tokens of the tokenizer, which are encoded as characters
AS_TEXT = "with control tokens as text"


@dataclass
class Tally:
    """The number of rows used, of rows dropped by reason, and of rows used in part, by what was left out.

    `as_text` is the number of rows whose text contains control tokens, dropped ones included.
    """

    used: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    shortened: Counter[str] = field(default_factory=Counter)
    as_text: int = 0

    def keep(self, usable: bool, reason: str) -> bool:
        """Returns `usable`. If it is False, counts one used row as dropped for this reason instead."""
        if not usable:
            self.used -= 1
            self.dropped[reason] += 1
        return usable

    def count(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Passes the rows on, and counts them as used."""
        for row in rows:
            self.used += 1
            yield row

    def drop(self, counts: Counter[str]) -> None:
        """Counts used rows as dropped, by reason; those of AS_TEXT are not dropped."""
        self.as_text += counts[AS_TEXT]
        counts = Counter({reason: count for reason, count in counts.items() if reason != AS_TEXT})
        self.used -= counts.total()
        self.dropped += counts

    def __str__(self) -> str:
        result = f"{self.used:,} rows"
        for verb, counts in (("dropped", self.dropped), ("shortened", self.shortened)):
            reasons = ", ".join(f"{count:,}{self._share(reason)} {reason}" for reason, count in counts.most_common())
            result += f" ({counts.total():,} {verb}: {reasons})" if reasons else ""
        if self.as_text:
            result += f" ({self.as_text:,} {AS_TEXT}; rendered: true under data makes them control tokens)"
        return result

    def _share(self, reason: str) -> str:
        """The share of the rows that are too long, in brackets; "" for another reason."""
        if not reason.startswith("longer than"):
            return ""
        share = round(100 * self.dropped[reason] / max(self.used + self.dropped.total(), 1))
        return f" ({share} %)" if share else " (under 1 %)"

    def as_dict(self) -> dict[str, Any]:
        """The counts as they are stored in stage.json."""
        shortened = {"shortened": dict(self.shortened)} if self.shortened else {}
        as_text = {"as_text": self.as_text} if self.as_text else {}
        return {"used": self.used, "dropped": dict(self.dropped), **shortened, **as_text}
