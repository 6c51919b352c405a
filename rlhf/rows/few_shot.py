"""Few-shot prompts: demonstrations before the prompt that is asked (GPT-3, arXiv 2005.14165, section 2).

No weight changes: what the model learns of the task, it learns from its prompt.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rlhf.rows.messages import Text
from rlhf.rows.tally import Row

SPARE = 8  # more rows drawn than needed, in place of those with the prompt that is asked


class ExamplePool:
    """Demonstrations from which examples are drawn."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows
        self.indices: dict[Any, list[int]] = defaultdict(list)  # by kind, and by kind and task
        for i, row in enumerate(rows):
            self.indices[_kind(row)].append(i)
            if row.get("task") is not None:
                self.indices[_kind(row), str(row["task"])].append(i)

    def draw(self, row: Row, count: int, rng: random.Random) -> list[Row]:
        """Up to `count` different examples for a row, none with its prompt; fewer if the pool has no more.

        The prompt of an example is a chat if the row's is one. If demonstrations have the row's `task`, only these are
        drawn.
        """
        kind = _kind(row)
        indices = self.indices.get((kind, str(row.get("task")))) or self.indices.get(kind, [])
        drawn = [self.rows[i] for i in rng.sample(indices, min(len(indices), count + SPARE))]
        return [example for example in drawn if example["prompt"] != row["prompt"]][:count]


def with_examples(row: Row, examples: Sequence[Row], separator: str) -> Row:
    """The row with examples in its prompt: each prompt with its completion, as SFT sees it, before the row's own.

    Texts are joined by the separator. In a chat each example is a turn before the row's messages. The system message is
    that of the row: those of examples are left out.
    """
    if isinstance(row["prompt"], str):
        shown = [example["prompt"] + _content(example["completion"]) for example in examples]
        return {**row, "prompt": separator.join([*shown, row["prompt"]])}
    system = [message for message in row["prompt"][:1] if message["role"] == "system"]
    turns = [message for example in examples for message in _turns(example)]
    return {**row, "prompt": [*system, *turns, *row["prompt"][len(system) :]]}


def is_same_answer(answer: str, reference: str) -> bool:
    """Exact match, but for white space and case."""
    return _normalised(answer) == _normalised(reference)


def _kind(row: Row) -> tuple[bool, bool, str]:
    """Rows of one kind can be examples for each other: both texts or both chats, with the same tools."""
    return isinstance(row["prompt"], str), row.get("rendered") is True, repr(row.get("tools"))


def _turns(example: Row) -> list[dict[str, Any]]:
    completion = example["completion"]
    reply = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    return [*(message for message in example["prompt"] if message["role"] != "system"), *reply]


def _content(text: Text) -> str:
    """The text of a completion after a prompt that is a text."""
    return text if isinstance(text, str) else str(text[-1]["content"])


def _normalised(text: str) -> str:
    return " ".join(text.split()).casefold()
