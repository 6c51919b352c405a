"""Sentence templates that both generate sentences and parse them.

A template is a sentence with slots, such as `"{name} has a {pet}."`. `WORDS[slot]` lists what can fill a slot.

- A digit distinguishes two slots of one type (`{name}` and `{name2}`). `fill` draws different fillers for them.
- A capital (`{He}`) capitalises the filler.
- `{items}` takes an enumeration: "red, blue and green".

Every sentence of the world comes from a template. So a sentence that matches no template is ungrammatical, and a
match gives its complete meaning.
"""

import random
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from data.world.words import MEMBERS, PRONOUNS, WORDS

PRONOUN_SLOTS = ("he", "him", "his")

_SLOT = re.compile(r"\{([A-Za-z]+)(\d*)\}")
_MEMBER = "|".join(sorted({word for words in MEMBERS.values() for word in words}))
_ITEMS = f"(?:{_MEMBER})(?:, (?:{_MEMBER}))*(?: and (?:{_MEMBER}))?"


@dataclass(frozen=True)
class Parse:
    """One parse of a sentence: the kind of its template, the fillers of its slots, and its text."""

    kind: str
    slots: dict[str, str]
    text: str


@dataclass(frozen=True)
class Template:
    """A sentence with slots, and its kind."""

    kind: str
    text: str

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """The distinct slots in order of appearance: `("name", "pet")`."""
        return tuple(dict.fromkeys(word.lower() + digit for word, digit in _SLOT.findall(self.text)))

    @cached_property
    def pattern(self) -> re.Pattern:
        """Regular expression of the sentences that `fill` can generate, with a named group for each slot."""
        parts, seen, end = [], set(), 0
        for match in _SLOT.finditer(self.text):
            word, slot = match[1], match[1].lower() + match[2]
            parts.append(re.escape(self.text[end : match.start()]))
            # a repeated slot must have the same filler, up to its case
            parts.append(f"(?i:(?P={slot}))" if slot in seen else f"(?P<{slot}>{_filler_pattern(word)})")
            seen.add(slot)
            end = match.end()
        return re.compile("".join(parts) + re.escape(self.text[end:]))

    def fill(self, rng: random.Random, fillers: dict[str, str]) -> str:
        """A sentence with the given fillers, and random ones for the other slots. Pronouns agree with `name`.

        Raises KeyError if there is a pronoun slot but neither a name nor a filler for it.
        """
        values = dict(fillers)
        for slot in self.slots:
            if slot not in values and slot not in PRONOUN_SLOTS:
                slot_type = _slot_type(slot)
                taken = {value for other, value in values.items() if _slot_type(other) == slot_type}
                values[slot] = rng.choice([filler for filler in WORDS[slot_type] if filler not in taken])
        values = {**PRONOUNS.get(values.get("name", ""), {}), **values}
        return _SLOT.sub(lambda m: _match_case(values[m[1].lower() + m[2]], m[1]), self.text)


def _slot_type(slot: str) -> str:
    return slot.rstrip("0123456789")


def _match_case(filler: str, slot: str) -> str:
    return filler[0].upper() + filler[1:] if slot[0].isupper() else filler


def _filler_pattern(word: str) -> str:
    """Regular expression of the fillers of a slot; `word` is the slot as written, without its digit."""
    if word == "items":
        return _ITEMS
    return "|".join(_match_case(filler, word) for filler in WORDS[word.lower()])


class Grammar:
    """Templates by kind."""

    def __init__(self, templates: dict[str, tuple[str, ...]]):
        self.templates = {kind: tuple(Template(kind, text) for text in texts) for kind, texts in templates.items()}
        self.parse = lru_cache(maxsize=100_000)(self._parse)

    def generate(self, kind: str, rng: random.Random, **fillers: str) -> str:
        """A sentence from a random template of the kind; slots without a filler are filled at random."""
        return rng.choice(self.templates[kind]).fill(rng, fillers)

    def _parse(self, sentence: str) -> tuple[Parse, ...]:
        """All parses of the sentence; none if it is ungrammatical."""
        return tuple(
            Parse(kind, {slot: _normalise_case(value) for slot, value in match.groupdict().items()}, sentence)
            for kind, templates in self.templates.items()
            for template in templates
            if (match := template.pattern.fullmatch(sentence))
        )


def _normalise_case(filler: str) -> str:
    """The filler in lower case, unless it is a name."""
    return filler if filler in PRONOUNS else filler.lower()


_SENTENCE = re.compile(r"[^.!?]*[.!?]|[^.!?]+$")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, stripped. Words after the last end mark count as one (ungrammatical) sentence."""
    return [s for s in (match.strip() for match in _SENTENCE.findall(text)) if s]
