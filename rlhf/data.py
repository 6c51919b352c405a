"""The four kinds of rows: reading them, checking them, turning them into tokens, and putting tokens into batches.

    text            {"text"}                                           pretraining, and the pretraining mix of PPO
    demonstrations  {"prompt", "completion"}                           SFT
    comparisons     {"prompt", "completions", "ranks"}                 reward model; rank 0 is best, equal ranks tie
                    {"prompt", "chosen", "rejected"}                   the same with K = 2
                    ... "ended", a list: False for a completion that was cut off, and has no eos
    prompts         {"prompt"}                                         PPO, samples, evaluation

The columns are TRL's where TRL has the format. A text is a string or a list of chat messages, `{"role", "content"}`,
which the tokenizer's chat template renders. Other columns are kept and ignored.

What is wrong with a file stops the reader at once (`InputError`, with file and line). What is wrong with a single
row's content, so that a person would have left the row out, drops the row, and a `Tally` counts it with its reason.
"""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from jinja2 import TemplateError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from rlhf.errors import InputError

Row = dict[str, Any]
Text = str | list[dict[str, str]]  # words, or chat messages


@dataclass
class Tally:
    """How many rows were used, and why the others were not."""

    used: int = 0
    dropped: Counter = field(default_factory=Counter)

    def keep(self, good: bool, otherwise: str) -> bool:
        """Whether a row that counted as used is still good; if not, it is counted as dropped."""
        if not good:
            self.used -= 1
            self.dropped[otherwise] += 1
        return good

    def __str__(self) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.most_common())
        return f"{self.used:,} rows" + (f" ({self.dropped.total():,} dropped: {reasons})" if reasons else "")

    def as_dict(self) -> dict[str, Any]:
        return {"used": self.used, "dropped": dict(self.dropped)}


# --- reading ----------------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(`file:line`, line) for every line that is not blank of a UTF-8 file, gzipped if its name ends in .gz."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{number}: not UTF-8 ({error.reason}); convert the file, for instance with iconv"
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"no file at {path}") from error
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: can't be read ({error})") from error


def read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    """(`file:line`, value) for every line of a JSON Lines file."""
    for where, line in read_lines(path):
        try:
            yield where, json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{where}: not JSON ({error.msg} at column {error.colno}); one JSON value a line"
            ) from error
        except (RecursionError, ValueError) as error:  # brackets without end, a number of thousands of digits
            raise InputError(f"{where}: no row that makes sense ({error})") from error


def read_rows(path: Path, kind: str, tally: Tally | None = None) -> list[Row]:
    """The checked rows of a JSON Lines file. Raises InputError if a row is wrong, or if none is left."""
    tally = Tally() if tally is None else tally
    rows = list(checked(read_jsonl(Path(path)), kind, tally))
    if not rows:
        raise InputError(f"{path}: no usable {kind} ({tally})")
    return rows


def checked(rows: Iterable[tuple[str, Any]], kind: str, tally: Tally) -> Iterator[Row]:
    """The rows that can be used, in the form above (comparisons with completions and ranks); `tally` counts them."""
    for where, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"{where}: a row is an object with columns, not {type(row).__name__}")
        row, fault = _CHECKS[kind](row, where)
        if fault:
            tally.dropped[fault] += 1
        else:
            tally.used += 1
            yield row


# --- checking: each returns the row, or why it is left out ------------------------------------------------------------


def _check_text(row: Row, where: str) -> tuple[Row, str]:
    if row.get("messages") is None and "text" in row:
        row = {column: value for column, value in row.items() if column != "messages"}
    column = "messages" if "messages" in row else "text"
    return row, _fault_of(_column(row, column, where), column, where)


def _check_demonstration(row: Row, where: str) -> tuple[Row, str]:
    faults = [_fault_of(_column(row, column, where), column, where) for column in ("prompt", "completion")]
    return row, next(filter(None, faults), "")


def _check_prompt(row: Row, where: str) -> tuple[Row, str]:
    return row, _fault_of(_column(row, "prompt", where), "prompt", where)


def _check_comparison(row: Row, where: str) -> tuple[Row, str]:
    if "completions" not in row and "chosen" in row:
        completions = [_column(row, "chosen", where), _column(row, "rejected", where)]
        others = {key: value for key, value in row.items() if key not in ("chosen", "rejected")}
        row = {**others, "completions": completions, "ranks": [0, 1]}
    prompt, completions, ranks = (_column(row, column, where) for column in ("prompt", "completions", "ranks"))
    if not isinstance(completions, list) or not isinstance(ranks, list):
        raise InputError(f'{where}: "completions" and "ranks" are lists, one entry for each completion')
    if len(ranks) != len(completions):
        raise InputError(f'{where}: "ranks" has {len(ranks)} entries for {len(completions)} completions')
    if not all(isinstance(r, int | float) and not isinstance(r, bool) and abs(r) < 1e9 for r in ranks):
        raise InputError(f'{where}: "ranks" are numbers, 0 for the best, equal for a tie')
    ended = row.get("ended", [True] * len(ranks))
    if not isinstance(ended, list) or len(ended) != len(ranks) or not all(isinstance(e, bool) for e in ended):
        raise InputError(f'{where}: "ended" is a list of true and false, one entry for each completion')
    if fault := _fault_of(prompt, "prompt", where):
        return row, fault
    faults = [_fault_of(completion, "completion", where) for completion in completions]
    if len(completions) < 2:
        return row, "fewer than two completions"
    # an empty completion is left out, and of equal ones all but the best; the row stays if two are left
    kept: dict[str, int] = {}
    for i in sorted(range(len(ranks)), key=ranks.__getitem__):
        if not faults[i]:
            kept.setdefault(json.dumps(completions[i], sort_keys=True), i)
    if len(kept) < 2:
        return row, next(filter(None, faults), "completions all the same")
    if len({ranks[i] for i in kept.values()}) == 1:
        return row, "all completions tied"
    # small numbers, which are told apart in single precision as well
    places = {rank: place for place, rank in enumerate(sorted(set(ranks)))}
    row, order = {**row, "ranks": [places[rank] for rank in ranks]}, sorted(kept.values())
    each = [c for c, value in row.items() if c != "prompt" and isinstance(value, list) and len(value) == len(ranks)]
    return {**row, **{column: [row[column][i] for i in order] for column in each}}, ""


_CHECKS: dict[str, Callable[[Row, str], tuple[Row, str]]] = {
    "text": _check_text,
    "demonstrations": _check_demonstration,
    "comparisons": _check_comparison,
    "prompts": _check_prompt,
}


def _column(row: Row, column: str, where: str) -> Any:
    if column not in row:
        raise InputError(f'{where}: no "{column}"; the row has {", ".join(row) or "nothing"}')
    return row[column]


def _fault_of(text: Any, column: str, where: str) -> str:
    """Why a text can't be used, or "" if it can. Raises InputError if it is no text at all."""
    if text is None:
        return f"empty {column}"
    if isinstance(text, str):
        if not _is_unicode(text):
            return f"{column} with half a character (a lone surrogate)"
        return "" if text.strip() else f"empty {column}"
    if not isinstance(text, list) or not all(_is_message(message) for message in text):
        raise InputError(
            f'{where}: "{column}" is {type(text).__name__}; it must be text, or messages with role and content'
        )
    if not text:
        return f"empty {column}"
    if odd := [m["content"] for m in text if not isinstance(m["content"], str | None)]:
        raise InputError(
            f'{where}: a message of "{column}" has {type(odd[0]).__name__} as its content; it must be text'
        )
    return next(filter(None, (_fault_of(message["content"], column, where) for message in text)), "")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def words_of(text: Text) -> str:
    """A text as a person reads it: chat messages as `role: content`, one a line."""
    return text if isinstance(text, str) else "\n".join(f"{m['role']}: {m['content']}" for m in text)


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message


# --- tokens -----------------------------------------------------------------------------------------------------------


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Text]) -> list[list[int]]:
    """The tokens of each prompt, up to where the response begins."""
    words = [prompt if isinstance(prompt, str) else render(tokenizer, prompt, generation=True) for prompt in prompts]
    return _tokens(tokenizer, words, prompts)


def completion_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Text],
    completions: Sequence[Text],
    ended: Sequence[bool] | None = None,
    stop_ids: Sequence[int] = (),
) -> list[list[int]]:
    """The tokens of each completion as they follow `prompt_ids`, with the token that ends it unless it was cut off.

    That is what a response stops at, the tokenizer's eos or one of `stop_ids`, the first where a template writes several.
    They are cut from prompt and completion tokenised together. Where that does not begin with the prompt's tokens (a
    merge across the border, a chat template that says more before a reply to be written), the completion is tokenised
    alone, so that training sees the states that sampling visits. Raises InputError if a template leaves it out.
    """
    wholes, replies = [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        if isinstance(prompt, str):
            replies.append(completion if isinstance(completion, str) else completion[-1]["content"])
            wholes.append(prompt + replies[-1])
        else:
            reply = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
            wholes.append(render(tokenizer, [*prompt, *reply]))
            replies.append(_reply(tokenizer, prompt, wholes[-1], reply[0]["content"]))
    found = []
    together = zip(prompt_ids(tokenizer, prompts), _tokens(tokenizer, wholes, prompts), replies, strict=True)
    for before, ids, reply in together:
        fits = ids[: len(before)] == before
        found.append(_ended(ids[len(before) :] if fits else _plain_ids(tokenizer, [reply])[0], tokenizer, stop_ids))
    return [ids if end else ids[:-1] for ids, end in zip(found, ended or [True] * len(found), strict=True)]


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]) -> list[list[int]]:
    """The tokens of each document, with the eos that ends it."""
    words = [text if isinstance(text, str) else render(tokenizer, text) for text in texts]
    eos = tokenizer.eos_token_id
    return [ids if ids[-1:] == [eos] else [*ids, eos] for ids in _tokens(tokenizer, words, texts)]


def render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], generation: bool = False) -> str:
    """Chat messages as the text that the tokenizer's chat template makes of them, in a sandbox.

    Raises InputError if it makes none, for instance because the roles don't alternate.
    """
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    except TemplateError as error:
        raise InputError(f"the tokenizer's chat template refuses {words_of(messages)[:200]!r}: {error}") from error


def _tokens(tokenizer: PreTrainedTokenizerBase, words: list[str], given: Sequence[Text]) -> list[list[int]]:
    """The tokens of words, after the tokenizer's own beginning where they were given as such and not as messages."""
    beginning = _beginning(tokenizer)
    rows = zip(_plain_ids(tokenizer, words), given, strict=True)
    return [beginning + ids if isinstance(text, str) else ids for ids, text in rows]


def _plain_ids(tokenizer: PreTrainedTokenizerBase, words: list[str]) -> list[list[int]]:
    """The tokens of each of many words, a thousand at a time to bound memory."""
    parts = (words[start : start + 1000] for start in range(0, len(words), 1000))
    if not tokenizer.is_fast:
        return [ids for part in parts for ids in tokenizer(part, add_special_tokens=False).input_ids]
    # as transformers does it, but without where in the text each token stands, which takes half of the time
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    encodings = (backend.encode_batch_fast(part, add_special_tokens=False) for part in parts)
    return [encoding.ids for part in encodings for encoding in part]


@lru_cache(maxsize=8)
def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens the tokenizer puts before a text: Llama's bos, BERT's [CLS], nothing for GPT-2."""
    plain, special = (tokenizer("a", add_special_tokens=flag).input_ids for flag in (False, True))
    start = next((i for i in range(len(special)) if special[i : i + len(plain)] == plain), 0)
    return special[:start]


def _reply(tokenizer: PreTrainedTokenizerBase, prompt: list[dict[str, str]], whole: str, words: str) -> str:
    """What follows the prompt in a rendered chat, or from the reply's own words where the prompt is rendered otherwise."""
    asked = render(tokenizer, prompt, generation=True)
    if whole.startswith(asked):
        return whole[len(asked) :]
    before = render(tokenizer, prompt)
    # as they are, or as templates show them that leave a thought out
    for shown in (words.strip(), words.rpartition("</think>")[2].strip()):
        start = whole.find(shown, len(before)) if whole.startswith(before) else whole.rfind(shown)
        if start >= 0:
            return whole[start:]
    raise InputError(f"the tokenizer's chat template does not show the reply {words[:200]!r} as it is")


def _ended(ids: list[int], tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> list[int]:
    """The tokens up to the one that ends the last turn; the eos is added where there is none.

    A chat template may write more after it, and be it a line break and another such token, but no words.
    """
    stops = [at for at, token in enumerate(ids) if token in {tokenizer.eos_token_id, *stop_ids}]
    end = len(ids)
    while stops and not tokenizer.decode(ids[stops[-1] + 1 : end], skip_special_tokens=True).strip():
        end = stops.pop()
    return ids[: end + 1] if end < len(ids) else [*ids, tokenizer.eos_token_id]


# --- datasets of tokens -----------------------------------------------------------------------------------------------


def text_dataset(rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Documents as `input_ids`, `labels` and `length`; a longer one is cut into consecutive pieces of `max_length` tokens."""
    documents = text_ids(tokenizer, [row["messages"] if "messages" in row else row["text"] for row in rows])
    pieces = [ids[i : i + max_length] for ids in documents for i in range(0, len(ids), max_length)]
    # a piece of one token predicts nothing
    pieces = [ids for ids in pieces if len(ids) > 1]
    return Dataset.from_dict({"input_ids": pieces, "labels": pieces, "length": list(map(len, pieces))})


def demonstration_dataset(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, tally: Tally, stop_ids: Sequence[int] = ()
) -> Dataset:
    """Prompts with completions as `input_ids`, `length`, and `labels` that are -100 on the prompt: it is not learned."""
    prompts = [row["prompt"] for row in rows]
    completions = completion_ids(tokenizer, prompts, [row["completion"] for row in rows], stop_ids=stop_ids)
    examples = []
    for prompt, completion in zip(prompt_ids(tokenizer, prompts), completions, strict=True):
        if tally.keep(len(prompt) + len(completion) <= max_length, f"longer than {max_length} tokens"):
            labels = [-100] * len(prompt) + completion
            examples.append({"input_ids": prompt + completion, "labels": labels, "length": len(labels)})
    return _dataset(examples, tally)


def comparison_dataset(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, tally: Tally, stop_ids: Sequence[int] = ()
) -> Dataset:
    """Rankings as `sequences`, each prompt with each of its completions, `ranks`, the `length` of the longest, and `row`."""
    completions = iter(
        completion_ids(
            tokenizer,
            [row["prompt"] for row in rows for _ in row["completions"]],
            [completion for row in rows for completion in row["completions"]],
            [end for row in rows for end in row.get("ended", [True] * len(row["completions"]))],
            stop_ids,
        )
    )
    examples = []
    for number, (row, prompt) in enumerate(zip(rows, prompt_ids(tokenizer, [r["prompt"] for r in rows]), strict=True)):
        sequences = [prompt + next(completions) for _ in row["completions"]]
        if tally.keep(max(map(len, sequences)) <= max_length, f"longer than {max_length} tokens"):
            ranks = [float(rank) for rank in row["ranks"]]
            examples.append({"sequences": sequences, "ranks": ranks, "length": max(map(len, sequences)), "row": number})
    return _dataset(examples, tally)


def prompt_dataset(rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, tally: Tally) -> Dataset:
    """Prompts of at most `max_length` tokens as `input_ids`, and `row`, where each stands in `rows`."""
    examples = []
    for number, ids in enumerate(prompt_ids(tokenizer, [row["prompt"] for row in rows])):
        if tally.keep(len(ids) <= max_length, f"longer than {max_length} tokens"):
            examples.append({"input_ids": ids, "row": number})
    return _dataset(examples, tally)


def _dataset(examples: list[dict[str, Any]], tally: Tally) -> Dataset:
    if not examples:
        raise InputError(f"no usable rows are left: {tally}; a longer context or max_length keeps more")
    return Dataset.from_list(examples)


# --- batches ----------------------------------------------------------------------------------------------------------


def pad(sequences: list[list[int]], pad_id: int, side: str) -> tuple[Tensor, Tensor]:
    """Token ids (B, L) padded to the longest on the `side` "left" or "right", and their attention mask (B, L)."""
    rows = [torch.tensor(ids, dtype=torch.long) for ids in sequences]
    input_ids = pad_sequence(rows, batch_first=True, padding_value=pad_id, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return input_ids, mask


def batch_order(lengths: Sequence[int], batch_size: int, epochs: float, seed: int) -> list[int]:
    """The rows of `epochs` epochs in order, so that each batch holds rows of similar length, and batches come mixed.

    transformers' own grouping by length leaves the batches of each fifty sorted from long to short. With documents of
    several kinds that is a stream of one kind after another, and a small model learns much worse from it.
    """
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < round(epochs * len(lengths)):
        shuffled = rng.permutation(len(lengths)).tolist()
        # sorted in stretches of fifty batches, so that rows meet other rows of their length in every epoch
        stretch = 50 * batch_size
        groups = [sorted(shuffled[i : i + stretch], key=lengths.__getitem__) for i in range(0, len(shuffled), stretch)]
        batches = [group[i : i + batch_size] for group in groups for i in range(0, len(group), batch_size)]
        full = [batch for batch in batches if len(batch) == batch_size]
        rng.shuffle(full)
        # a short batch in the middle would shift all that follow
        order += [row for batch in full for row in batch] + [row for b in batches if len(b) < batch_size for row in b]
    return order[: round(epochs * len(lengths))]
