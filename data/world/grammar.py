"""Sentence templates that work both ways: filled in to write a sentence, matched to read one.

A template is a sentence with slots, `"{name} has a {pet}."`; a slot's fillers are `WORDS[slot]`. A digit tells two
slots of a kind apart (`{name2}`), and they are filled differently; a capital (`{He}`) capitalises the filler;
`{items}` takes an enumeration, "red, blue and green". Because every sentence of the world comes from a template, a
sentence that no template matches is ungrammatical, and one that does is understood completely.
"""

import random
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from data.world.words import MEMBERS, PRONOUNS, WORDS

_SLOT = re.compile(r"\{([A-Za-z]+)(\d*)\}")
_MEMBER = "|".join(sorted({word for words in MEMBERS.values() for word in words}))
_ITEMS = f"(?:{_MEMBER})(?:, (?:{_MEMBER}))*(?: and (?:{_MEMBER}))?"


@dataclass(frozen=True)
class Sentence:
    """A sentence that was understood: its kind, what stands in its slots, and its words."""

    kind: str
    slots: dict[str, str]
    text: str


@dataclass(frozen=True)
class Template:
    kind: str
    text: str

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """The names of the slots, each once, in order: `("name", "pet")`."""
        return tuple(dict.fromkeys(word.lower() + digit for word, digit in _SLOT.findall(self.text)))

    @cached_property
    def pattern(self) -> re.Pattern:
        """Matches exactly the sentences that `fill` can write."""
        parts, seen, end = [], set(), 0
        for match in _SLOT.finditer(self.text):
            word, slot = match[1], match[1].lower() + match[2]
            parts.append(re.escape(self.text[end : match.start()]))
            # a slot that comes again must be filled as before, but for its capital
            parts.append(f"(?i:(?P={slot}))" if slot in seen else f"(?P<{slot}>{_fillers(word)})")
            seen.add(slot)
            end = match.end()
        return re.compile("".join(parts) + re.escape(self.text[end:]))

    def fill(self, rng: random.Random, given: dict[str, str]) -> str:
        """The sentence, its slots filled as `given` says and at random where it does not; pronouns follow the name."""
        values = dict(given)
        for slot in self.slots:
            if slot not in values and slot not in PRONOUN_SLOTS:
                kind = _kind(slot)
                taken = {value for other, value in values.items() if _kind(other) == kind}
                values[slot] = rng.choice([filler for filler in WORDS[kind] if filler not in taken])
        values = {**PRONOUNS.get(values.get("name"), {}), **values}
        return _SLOT.sub(lambda m: _cased(values[m[1].lower() + m[2]], m[1]), self.text)


PRONOUN_SLOTS = ("he", "him", "his")


def _kind(slot: str) -> str:
    return slot.rstrip("0123456789")


def _cased(filler: str, slot: str) -> str:
    return filler[0].upper() + filler[1:] if slot[0].isupper() else filler


def _fillers(word: str) -> str:
    """The regular expression of what may stand in a slot."""
    if word == "items":
        return _ITEMS
    return "|".join(_cased(filler, word) for filler in WORDS[word.lower()])


class Grammar:
    """Templates by kind; `write` fills one in, `read` finds the ones a sentence can come from."""

    def __init__(self, templates: dict[str, tuple[str, ...]]):
        self.templates = {kind: tuple(Template(kind, text) for text in texts) for kind, texts in templates.items()}
        self.read = lru_cache(maxsize=100_000)(self._read)

    def write(self, kind: str, rng: random.Random, **given: str) -> str:
        """A sentence of that kind, from a template drawn at random."""
        return rng.choice(self.templates[kind]).fill(rng, given)

    def _read(self, sentence: str) -> tuple[Sentence, ...]:
        """Every way to understand the sentence; none if it is ungrammatical."""
        return tuple(
            Sentence(kind, {slot: _plain(value) for slot, value in match.groupdict().items()}, sentence)
            for kind, templates in self.templates.items()
            for template in templates
            if (match := template.pattern.fullmatch(sentence))
        )


def _plain(value: str) -> str:
    return value if value in PRONOUNS else value.lower()


_SENTENCE = re.compile(r"[^.!?]*[.!?]|[^.!?]+$")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, stripped; words after the last full stop count as one (an ungrammatical one)."""
    return [s for s in (match.strip() for match in _SENTENCE.findall(text)) if s]
