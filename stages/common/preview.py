"""The first row of a stage as the model sees it, and a hint where most rows are too long."""

from collections.abc import Sequence
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from rlhf.escape import wrap
from rlhf.rows import Tally
from rlhf.tokens import TOO_LONG
from stages.common.console import say

WIDTH = 84  # columns of a line
MAX_LINES = 12
Ids = Sequence[int]


def say_tokens(
    tokenizer: PreTrainedTokenizerBase,
    ids: Ids,
    marked: Sequence[bool] = (),
    after: str = "",
    label: str = "",
    max_lines: int = MAX_LINES,
) -> None:
    """Prints token ids as text, special tokens too, with `[[` and `]]` around runs of `marked` tokens.

    `label` stands before the first line, and `after` behind the text. A long text is cut in the middle of its runs.
    """
    for number, line in enumerate(_lines(tokenizer, ids, marked or [False] * len(ids), after, max_lines)):
        say(f"{label if number == 0 else ' ' * len(label)}| {line}")


def say_ranking(
    tokenizer: PreTrainedTokenizerBase, sequences: Sequence[Ids], ranks: Sequence[float], prompt: Ids
) -> None:
    """Prints the prompt of a ranking once, then its completions, best first; each sequence begins with the prompt."""
    say(f"first ranking: a prompt of {len(prompt):,} tokens, and completions, best first:")
    say_tokens(tokenizer, prompt)
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    labels = {i: f"rank {ranks[i]:g}, {len(sequences[i]) - len(prompt):,} tokens " for i in order}
    width = max(map(len, labels.values()))
    for i in order:
        say_tokens(tokenizer, sequences[i][len(prompt) :], label=labels[i].ljust(width), max_lines=4)


def say_if_too_long(tally: Tally, remedy: str) -> None:
    """Prints the remedy if more than half of the rows are dropped because they are too long."""
    too_long = sum(count for reason, count in tally.dropped.items() if reason.startswith(TOO_LONG))
    if 2 * too_long > tally.used + tally.dropped.total():
        say(f"more than half of the rows are too long: {remedy}")


def _lines(
    tokenizer: PreTrainedTokenizerBase, ids: Ids, marked: Sequence[bool], after: str, max_lines: int
) -> list[str]:
    """The text as lines of up to WIDTH columns. Each run shows as many tokens as `max_lines` lines have room for."""
    for most in (len(ids), 256, 128, 64, 32, 16):
        text = _marked_text(tokenizer, ids, marked, most) + after
        lines = [part for line in text.split("\n") for part in wrap(line, WIDTH, keep_blanks=True) or [""]]
        if len(lines) <= max_lines:
            return lines
    half = (max_lines - 1) // 2
    return [*lines[:half], f"... {len(lines) - 2 * half:,} lines left out ...", *lines[-half:]]


def _marked_text(tokenizer: PreTrainedTokenizerBase, ids: Ids, marked: Sequence[bool], most: int) -> str:
    """The text of the ids, about `most` tokens of each run, with marks around the runs of marked tokens."""
    parts, start = [], 0
    for is_marked, run in groupby(marked):
        stop = start + len(list(run))
        text = _text(tokenizer, ids, start, stop)
        if stop - start > most + 4:  # a run that is hardly longer is shown whole
            first, last = _text(tokenizer, ids, start, start + most // 2), _text(tokenizer, ids, stop - most // 2, stop)
            text = f"{first} ... {stop - start - most // 2 * 2:,} tokens left out ... {last}"
        parts.append(f"[[{text}]]" if is_marked else text)
        start = stop
    return "".join(parts)


def _text(tokenizer: PreTrainedTokenizerBase, ids: Ids, start: int, stop: int) -> str:
    """The text of ids[start:stop]. Earlier ids decide whether a Llama tokenizer puts a space before the first word."""
    before, whole = (
        str(tokenizer.decode(list(ids[:end]), clean_up_tokenization_spaces=False)) for end in (start, stop)
    )
    return whole[len(before) :]
