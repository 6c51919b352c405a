"""What the rankings say: counts, agreement of people, win rate of one model over another; and files for training."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from data.rankings import agreement, by_whom, pairs, plural, usable
from rlhf.rows import Row, write_rows
from rlhf.run.files import replace

# columns of rankings.jsonl that a row for training keeps
KEPT = "prompt tools rendered completions ranks ended models shown id rater time seconds all_bad note".split()
Estimated = Any  # rlhf.evaluate.Estimate, whose module imports torch


def agreement_of(decisions: Iterable[Row]) -> Estimated | None:
    """The share of pairs that people who ranked the same item order alike, with an interval; None without any pair."""
    from rlhf.evaluate import ratio_estimate

    alike, compared = agreement(decisions)
    return ratio_estimate(alike, compared) if compared else None


def win_rate_of(decisions: Iterable[Row]) -> Estimated | None:
    """How often the last model is ranked above the first, a tie counting half, with an interval over prompts."""
    from rlhf.evaluate import ratio_estimate

    wins: dict[str, list[float]] = defaultdict(list)
    for row in decisions:
        if row["ranks"] is not None and not row["flag"]:
            first, last = row["ranks"][0], row["ranks"][-1]
            wins[row["id"]].append(0.5 if first == last else float(last < first))
    return ratio_estimate([fmean(parts) for parts in wins.values()]) if wins else None


def export(folder: Path, decisions: Sequence[Row]) -> tuple[int, int]:
    """Writes comparisons.jsonl, for the reward model, and pairs.jsonl, TRL's columns; the numbers of their rows."""
    rankings = list(usable(decisions))
    rows = [{name: row[name] for name in KEPT if name in row} for row in rankings]
    trl = list(pairs(rankings))
    for name, content in (("comparisons.jsonl", rows), ("pairs.jsonl", trl)):
        partial = folder / f".{name}.partial"
        write_rows(partial, content)
        replace(partial, folder / name)
    return len(rows), len(trl)


def in_words(decisions: Sequence[Row]) -> str:
    """`12 rankings by 2 people (Ada 7, Bob 5), 9 s each (median); 2 skipped, 1 flagged, 1 all bad`."""
    ranked = [row for row in decisions if row["ranks"] is not None]
    if not ranked:
        return f"nothing is ranked; {plural(len(decisions), 'item')} skipped" if decisions else "nothing is ranked"
    seconds = median(row["seconds"] for row in ranked)
    counts = {
        "skipped": len(decisions) - len(ranked),
        "flagged": sum(bool(row["flag"]) for row in decisions),
        "all bad": sum(bool(row["all_bad"]) for row in decisions),
    }
    rest = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    return f"{by_whom(ranked)}, {seconds:.0f} s each (median){'; ' + rest if rest else ''}"
