"""The held-out prompts with the answers of all models, and which of them are shown first."""

import difflib
import itertools
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf.rows import Row
from stages.reporting.content import number

SFT, POLICY = "sft", "ppo"
SHOWN = 3  # prompts shown first of the worst, of the median and of the best
MOST_PROMPTS = 400
MOST_CHARACTERS = 1_000_000  # of all answers in the page, so that it stays below about 3 MB
LONGEST = 1_500  # characters of an answer or a prompt; the rest is cut
MARKUP = 100  # characters that the page needs for an answer besides its text
ORDER = ("pretrain", SFT, POLICY)


@dataclass(frozen=True)
class Answer:
    """A model's answer."""

    model: str
    text: str
    reference: str | None  # the SFT answer; None if there is none, or if this is it
    cut: int  # characters that are left out at the end
    finished: bool
    length: int
    score: float | None
    gold: float | None
    kl: float | None

    @property
    def same(self) -> bool:
        """Whether it is the SFT answer word for word."""
        return not self.cut and self.text == self.reference

    @property
    def pieces(self) -> list[tuple[str, bool]]:
        """The text in pieces: (piece, whether its words differ from the SFT answer's)."""
        return [(self.text, False)] if self.reference is None else changed_words(self.reference, self.text)

    @property
    def numbers(self) -> list[tuple[str, str]]:
        """Names and values of what is known about the answer."""
        known = {"gold": self.gold, "score": self.score, "KL": self.kl}
        told = [(name, number(float(value))) for name, value in known.items() if value is not None]
        return [*told, ("tokens", f"{self.length}")]


@dataclass
class Prompt:
    """A prompt with the answers at each temperature."""

    turns: list[tuple[str, str]]  # (role, text); the role of a prompt that is text is ""
    task: str
    answers: dict[float, list[Answer]] = field(default_factory=dict)

    def of(self, model: str, temperature: float) -> Answer | None:
        """The answer of a model."""
        return next((answer for answer in self.answers.get(temperature, []) if answer.model == model), None)


@dataclass
class Comparison:
    """The prompts in order: worst, median and best first; by how much the policy gains against the SFT model."""

    prompts: list[Prompt]
    models: list[str]
    temperatures: list[float]
    policy: str  # whose numbers sort the prompts
    measure: str  # "gold" or "score", of which the gain is the difference; "" if there is no gain
    total: int  # prompts in the file
    groups: dict[str, list[Prompt]] = field(default_factory=dict)
    rest: list[Prompt] = field(default_factory=list)

    @property
    def tasks(self) -> list[str]:
        """The tasks of the prompts."""
        return sorted({prompt.task for prompt in self.prompts if prompt.task})

    def gain(self, prompt: Prompt, temperature: float | None = None) -> float | None:
        """The policy's gold (or score) minus the SFT model's; None if one of them is unknown."""
        at = self.temperatures[0] if temperature is None else temperature
        ours, theirs = prompt.of(self.policy, at), prompt.of(SFT, at)
        if not self.measure or ours is None or theirs is None:
            return None
        value, other = getattr(ours, self.measure), getattr(theirs, self.measure)
        return None if value is None or other is None else value - other

    def keys(self, prompt: Prompt, temperature: float) -> dict[str, float]:
        """The numbers by which the prompt can be sorted."""
        answer = prompt.of(self.policy, temperature)
        values = {"gain": self.gain(prompt, temperature)}
        if answer:
            values |= {"gold": answer.gold, "score": answer.score, "kl": answer.kl, "length": float(answer.length)}
        return {name: round(value, 4) for name, value in values.items() if value is not None}

    def sortable(self) -> list[str]:
        """The numbers that at least one prompt has."""
        return list(dict.fromkeys(name for p in self.prompts for t in self.temperatures for name in self.keys(p, t)))

    def lead(self) -> str:
        """What the section shows, in one paragraph."""
        shown = len(self.prompts)
        text = f"{shown} held-out prompts" if shown == self.total else f"{shown} of {self.total:,} held-out prompts"
        text += f", answered by {', '.join(self.models)}."
        gains = [gain for prompt in self.prompts if (gain := self.gain(prompt)) is not None]
        if gains:
            counts = [sum(g > 0 for g in gains), sum(g == 0 for g in gains), sum(g < 0 for g in gains)]
            text += (
                f" The gain of {self.policy} is its {self.measure} minus that of sft: {counts[0]} prompts gain, "
                f"{counts[1]} stay equal, {counts[2]} lose; the median is {number(float(statistics.median(gains)))}."
            )
        return text


def compare(rows: Sequence[Row]) -> Comparison | None:
    """The answers of a file by prompt; None if there are none."""
    if not rows:
        return None
    models = sorted(dict.fromkeys(row["model"] for row in rows), key=_order)
    policy = POLICY if POLICY in models else models[-1]
    temperatures = _temperatures(rows)
    groups = _by_prompt(rows, temperatures)
    prompts = [_prompt(group, models, temperatures) for group in groups]
    measure = ""
    if SFT in models and policy != SFT:
        known = {name: [r[name] is not None for r in rows if r["model"] in (SFT, policy)] for name in ("gold", "score")}
        measure = next((name for name, found in known.items() if any(found)), "")
    result = Comparison(prompts, models, temperatures, policy, measure, len(prompts))
    result.groups, rest = _first(result)
    result.rest = _fitting([p for group in result.groups.values() for p in group], rest)
    result.prompts = [*(p for group in result.groups.values() for p in group), *result.rest]
    return result


def _order(model: str) -> tuple[int, str]:
    return (ORDER.index(model), "") if model in ORDER else (len(ORDER), model)


def _temperatures(rows: Sequence[Row]) -> list[float]:
    """The temperature that most answers have, and greedy decoding if it is another one."""
    counts: dict[float, int] = {}
    for row in rows:
        counts[float(row["temperature"])] = counts.get(float(row["temperature"]), 0) + 1
    main = max(counts, key=lambda temperature: (counts[temperature], temperature == 1.0, temperature))
    return [main, *([0.0] if main and 0.0 in counts else [])]


def _by_prompt(rows: Sequence[Row], temperatures: Sequence[float]) -> list[list[Row]]:
    """The rows of each prompt. The n-th answer of a model to a repeated prompt belongs to the n-th of its groups."""
    groups: dict[tuple[str, int], list[Row]] = {}
    seen: dict[tuple[str, str, float], int] = {}
    for row in rows:
        if row["temperature"] in temperatures:
            text = json.dumps(row["prompt"], sort_keys=True)
            key = (text, row["model"], float(row["temperature"]))
            seen[key] = seen.get(key, -1) + 1
            groups.setdefault((text, seen[key]), []).append(row)
    return list(groups.values())


def _prompt(rows: Sequence[Row], models: Sequence[str], temperatures: Sequence[float]) -> Prompt:
    prompt = rows[0]["prompt"]
    turns = [("", prompt)] if isinstance(prompt, str) else [(str(m.get("role", "")), text_of(m)) for m in prompt]
    result = Prompt([(role, text[:LONGEST]) for role, text in turns], rows[0].get("task") or "")
    for temperature in temperatures:
        found = {row["model"]: row for row in rows if row["temperature"] == temperature}
        reference = text_of(found[SFT]["completion"]) if SFT in found else None
        ordered = [found[model] for model in models if model in found]
        result.answers[temperature] = [_answer(row, reference) for row in ordered]
    return result


def _answer(row: Row, reference: str | None) -> Answer:
    text = text_of(row["completion"]).strip()
    compared = None if reference is None or row["model"] == SFT else reference.strip()[:LONGEST]
    numbers = (row["finished"], row["length"], row["score"], row["gold"], row["kl"])
    return Answer(row["model"], text[:LONGEST], compared, max(0, len(text) - LONGEST), *numbers)


def text_of(content: Any) -> str:
    """The text of a completion or a message: itself, or the contents of its messages."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return text_of(content.get("content") or "")
    return "\n".join(map(text_of, content)) if isinstance(content, list) else str(content)


def changed_words(reference: str, text: str) -> list[tuple[str, bool]]:
    """The text in pieces: (piece, whether its words are not in the reference at that place). Joined they are the text."""
    parts, others = (re.split(r"(\s+)", one) for one in (text, reference))  # words at even places, spaces between them
    matcher = difflib.SequenceMatcher(None, others[::2], parts[::2])  # its heuristic keeps long texts fast
    words = [kind != "equal" for kind, _, _, begin, end in matcher.get_opcodes() for _ in range(begin, end)]
    # a space is changed between changed words only, so that they are marked as one
    changed = [words[i // 2] and words[(i + 1) // 2] for i in range(len(parts))]
    runs = itertools.groupby(zip(parts, changed, strict=True), key=lambda pair: pair[1])
    return [("".join(part for part, _ in run), key and bool(text)) for key, run in runs]


def _first(comparison: Comparison) -> tuple[dict[str, list[Prompt]], list[Prompt]]:
    """The worst, median and best prompts by gain, and the others from the worst to the best."""
    gained = [(gain, i) for i, prompt in enumerate(comparison.prompts) if (gain := comparison.gain(prompt)) is not None]
    if not gained:
        return {"": comparison.prompts[: 2 * SHOWN]}, comparison.prompts[2 * SHOWN :]
    ranked = [comparison.prompts[i] for _, i in sorted(gained)]
    if len(ranked) <= 3 * SHOWN:
        groups = {"All prompts, from the largest loss to the largest gain": ranked}
    else:
        groups = {
            f"Worst: {comparison.policy} loses most": _different(ranked),
            "Median": _different(ranked[(len(ranked) - SHOWN) // 2 :]),
            f"Best: {comparison.policy} gains most": _different(ranked[::-1]),
        }
    shown = {id(prompt) for group in groups.values() for prompt in group}
    unknown = [prompt for prompt in comparison.prompts if comparison.gain(prompt) is None]
    return groups, [prompt for prompt in (*ranked, *unknown) if id(prompt) not in shown]


def _different(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The first SHOWN prompts that differ; a file may hold the same prompt several times."""
    found: dict[str, Prompt] = {}
    for prompt in prompts:
        found.setdefault(json.dumps(prompt.turns), prompt)
    return list(found.values())[:SHOWN]


def _fitting(shown: Sequence[Prompt], rest: Sequence[Prompt]) -> list[Prompt]:
    """As many of the other prompts as the page holds, evenly from the worst to the best."""
    room = MOST_CHARACTERS - sum(map(_size, shown))
    count = min(len(rest), max(0, MOST_PROMPTS - len(shown)))
    while count:
        chosen = [rest[i * len(rest) // count] for i in range(count)]
        if (size := sum(map(_size, chosen))) <= room:
            return chosen
        count = min(count - 1, max(0, int(count * room / size)))
    return []


def _size(prompt: Prompt) -> int:
    answers = [answer for answers in prompt.answers.values() for answer in answers]
    texts = sum(len(text) for _, text in prompt.turns)
    return texts + sum(MARKUP + len(answer.text) for answer in answers)
