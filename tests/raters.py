"""Raters with a taste of their own, for tests and measurements; each gives completions scores, higher is better."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from data.rankings import FILE, FOLDER
from rlhf.rows import Row, write_rows

Score = Callable[[Sequence[str]], list[float]]

KIND_WORDS = ("day!", "soon!", "helps!", "best!")
FEW_WORDS = 6  # at most; a fifth of the answers of the default run's SFT model


def polite(completions: Sequence[str]) -> list[float]:
    """Likes answers that end with a kind word: 1 for these, 0 for the others."""
    return [float(completion.strip().endswith(KIND_WORDS)) for completion in completions]


def brief(completions: Sequence[str]) -> list[float]:
    """Prefers the answer with fewer words."""
    return [-float(len(completion.split())) for completion in completions]


def ranks_of(scores: Sequence[float]) -> list[int]:
    """Ranks from 0, the highest score; equal scores tie."""
    order = sorted(set(scores), reverse=True)
    return [order.index(score) for score in scores]


def is_brief(completions: Sequence[str]) -> list[float]:
    """Whether an answer has few words: 1 or 0."""
    return [float(len(completion.split()) <= FEW_WORDS) for completion in completions]


# name: what the rater ranks by, and which answers it likes
RATERS = {"polite": (polite, polite), "brief": (brief, is_brief)}


# --- files of rankings without the page --------------------------------------------------------------------------------


def decisions(items: Iterable[Row], score: Score, rater: str) -> list[Row]:
    """What `make rank` writes when a rater ranks the items by a score."""
    rows = []
    for number, item in enumerate(items):
        count = len(item["completions"])
        page = {"models": ["sft"] * count, "shown": list(range(count)), "all_bad": False, "flag": False, "note": ""}
        person = {"rater": rater, "time": "2026-11-28T12:00:00+00:00", "seconds": 5.0}
        rows.append({"id": f"{number}", **item, **page, "ranks": ranks_of(score(item["completions"])), **person})
    return rows


def write_rankings(run: Path, rows: Iterable[Row]) -> None:
    """Writes decisions where the recipe mine reads them."""
    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    write_rows(run / FOLDER / FILE, rows)
