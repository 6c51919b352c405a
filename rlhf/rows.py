"""The four kinds of rows: reading, checking and writing them. No torch.

    text            {"text"}                                           pretraining, and the pretraining mix of PPO
    demonstrations  {"prompt", "completion"}                           SFT
    comparisons     {"prompt", "completions", "ranks"}                 reward model; rank 0 is best, equal ranks tie
                    {"prompt", "chosen", "rejected"}                   the same with K = 2
                    {..., "ended"}, optional                           False for a truncated completion: it gets no eos
    prompts         {"prompt"}                                         PPO, samples, evaluation

The columns are TRL's where TRL has the format. A text is a string or a list of chat messages, `{"role", "content"}`,
which the tokenizer's chat template renders; see `normalised` for other forms of a message. In a demonstration, a reply
of the prompt with `"weight": 1` is learned too. Further columns are kept.

A malformed file or row raises InputError with file and line. A row with unusable content, such as an empty prompt, is
dropped, and a `Tally` counts it by reason.
"""

import gzip
import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload
from weakref import finalize

from rlhf import InputError

Row = dict[str, Any]
Text = str | list[dict[str, Any]]  # a string, or chat messages


@dataclass
class Tally:
    """The number of rows used, of rows dropped by reason, and of rows used in part, by what was left out."""

    used: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    shortened: Counter[str] = field(default_factory=Counter)

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
        """Counts used rows as dropped, by reason."""
        self.used -= counts.total()
        self.dropped += counts

    def __str__(self) -> str:
        result = f"{self.used:,} rows"
        for verb, counts in (("dropped", self.dropped), ("shortened", self.shortened)):
            reasons = ", ".join(f"{count:,}{self._share(reason)} {reason}" for reason, count in counts.most_common())
            result += f" ({counts.total():,} {verb}: {reasons})" if reasons else ""
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
        return {"used": self.used, "dropped": dict(self.dropped), **shortened}


# --- files ------------------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(`file:line`, line) for every non-blank line of a UTF-8 file. A file named *.gz is decompressed.

    Raises InputError for a missing or unreadable file, and for bytes that are not UTF-8.
    """
    for where, _, line in _lines(path):
        yield where, _decode(where, line)


def read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    """(`file:line`, value) for every non-blank line of a JSON Lines file.

    Raises InputError for a line that is not JSON.
    """
    for where, _, line in _lines(path):
        yield where, _parse(where, line)


def _lines(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """(`file:line`, position, line) for every non-blank line. Raises InputError for a file that can't be read."""
    position = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", position, line
                position += len(line)
    except FileNotFoundError as error:
        raise InputError(f"no file at {path}") from error
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: can't be read ({error})") from error


def _decode(where: str, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig")  # a BOM is not part of the text
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason}); convert the file, for instance with iconv") from error


def _parse(where: str, line: bytes) -> Any:
    """The JSON value in a line."""
    try:
        return json.loads(_decode(where, line))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not JSON ({error.msg} at column {error.colno}); each line must hold one JSON value"
        ) from error
    except (RecursionError, ValueError) as error:  # brackets nested too deeply, or a number with too many digits
        raise InputError(f"{where}: not a usable row ({error})") from error


def read_rows(path: Path, kind: str, tally: Tally | None = None) -> Sequence[Row]:
    """The valid rows of a JSON Lines file, which are read when they are needed, unless the file is compressed.

    Raises InputError if a row is malformed, or if none is usable.
    """
    tally, path = Tally() if tally is None else tally, Path(path)
    seekable = path.suffix != ".gz" and (path.is_file() or not path.exists())
    rows = RowFile(path, kind, tally) if seekable else list(valid_rows(read_jsonl(path), kind, tally))
    if not rows:
        raise InputError(f"{path}: no usable {kind} ({tally})")
    return rows


class RowFile(Sequence[Row]):
    """The valid rows of a JSON Lines file. Only their positions are in memory; a row is read when it is needed."""

    def __init__(self, path: Path, kind: str, tally: Tally):
        """Checks every row, and counts used and dropped ones. Raises InputError if a row is malformed."""
        self.path, self.kind = path, kind
        self.starts, self.sizes = array("q"), array("q")  # bytes
        for where, start, line in _lines(path):
            for _ in valid_rows([(where, _parse(where, line))], kind, tally):
                self.starts.append(start)
                self.sizes.append(len(line))
        self.descriptor = os.open(path, os.O_RDONLY)
        finalize(self, os.close, self.descriptor)

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        # pread does not move the file's position, which forked processes share
        line = os.pread(self.descriptor, self.sizes[index], self.starts[index])
        return _CHECKS[self.kind](_parse(str(self.path), line), str(self.path))[0]

    def size(self, index: int) -> int:
        """The bytes of a row in the file."""
        return self.sizes[index]


class Subset(Sequence[Row]):
    """The rows with these indices."""

    def __init__(self, rows: Sequence[Row], indices: Sequence[int]):
        self.rows, self.indices = rows, array("q", indices)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self.rows[i] for i in self.indices[index]]
        return self.rows[self.indices[index]]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes JSON Lines. Lone surrogates become JSON escapes; values that JSON can't represent become strings."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(map(to_line, rows))


def to_line(row: Row) -> str:
    """A row as a line of JSON Lines."""
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"


# --- checking: each check returns the row, and the reason to drop it or "" -------------------------------------------


def valid_rows(rows: Iterable[tuple[str, Any]], kind: str, tally: Tally) -> Iterator[Row]:
    """The usable rows, comparisons as completions with ranks; `tally` counts used and dropped rows.

    `rows` are pairs (place, row). Raises InputError, with the place, for a malformed row.
    """
    for where, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"{where}: a row is an object with columns, not {type(row).__name__}")
        row, fault = _CHECKS[kind](row, where)
        if fault:
            tally.dropped[fault] += 1
        else:
            tally.used += 1
            yield row


def _check_text(row: Row, where: str) -> tuple[Row, str]:
    if row.get("messages") is None and "text" in row:
        row = {column: value for column, value in row.items() if column != "messages"}
    column = "messages" if "messages" in row else "text"
    value, fault = _checked(_column(row, column, where), column, where)
    return {**row, column: without_weights(value)}, fault


def _check_demonstration(row: Row, where: str) -> tuple[Row, str]:
    checked = {column: _checked(_column(row, column, where), column, where) for column in ("prompt", "completion")}
    faults = [fault for _, fault in checked.values()]
    return {**row, **{column: value for column, (value, _) in checked.items()}}, next(filter(None, faults), "")


def _check_prompt(row: Row, where: str) -> tuple[Row, str]:
    value, fault = _checked(_column(row, "prompt", where), "prompt", where)
    return {**row, "prompt": without_weights(value)}, fault


def _check_comparison(row: Row, where: str) -> tuple[Row, str]:
    if "completions" not in row and "chosen" in row:
        completions = [_column(row, "chosen", where), _column(row, "rejected", where)]
        rest = {column: value for column, value in row.items() if column not in ("chosen", "rejected")}
        row = {**rest, "completions": completions, "ranks": [0, 1]}
    _check_ranking(row, where)
    row, fault = _check_prompt(row, where)
    if fault:
        return row, fault
    checked = [_checked(completion, "completion", where) for completion in row["completions"]]
    if len(checked) < 2:
        return row, "fewer than two completions"
    row = {**row, "completions": [without_weights(value) for value, _ in checked]}
    return _without_duplicates(row, [fault for _, fault in checked])


def _check_ranking(row: Row, where: str) -> None:
    """Raises InputError if a column of a ranking is missing, or has the wrong type or length."""
    _, completions, ranks = (_column(row, column, where) for column in ("prompt", "completions", "ranks"))
    if not isinstance(completions, list) or not isinstance(ranks, list):
        raise InputError(f'{where}: "completions" and "ranks" are lists, one entry for each completion')
    if len(ranks) != len(completions):
        raise InputError(f'{where}: "ranks" has {len(ranks)} entries for {len(completions)} completions')
    if not all(isinstance(r, int | float) and not isinstance(r, bool) and abs(r) < 1e9 for r in ranks):
        raise InputError(f'{where}: "ranks" are numbers, 0 for the best, equal for a tie')
    ended = row.get("ended", [True] * len(ranks))
    if not isinstance(ended, list) or len(ended) != len(ranks) or not all(isinstance(e, bool) for e in ended):
        raise InputError(f'{where}: "ended" is a list of true and false, one entry for each completion')


def _without_duplicates(row: Row, faults: list[str]) -> tuple[Row, str]:
    """The ranking without unusable completions and without duplicates, of which the best is kept.

    The second result is the reason to drop the whole row, or "".
    """
    completions, ranks = row["completions"], row["ranks"]
    kept: dict[str, int] = {}
    for i in sorted(range(len(ranks)), key=ranks.__getitem__):
        if not faults[i]:
            kept.setdefault(json.dumps(completions[i], sort_keys=True), i)
    if len(kept) < 2:
        return row, next(filter(None, faults), "completions all the same")
    if len({ranks[i] for i in kept.values()}) == 1:
        return row, "all completions tied"
    # ranks become 0, 1, 2, ..., because ranks that differ little or are large may be equal in fp32
    dense = {rank: index for index, rank in enumerate(sorted(set(ranks)))}
    row, order = {**row, "ranks": [dense[rank] for rank in ranks]}, sorted(kept.values())
    per_completion = [
        column
        for column, value in row.items()
        if column != "prompt" and isinstance(value, list) and len(value) == len(ranks)
    ]
    return {**row, **{column: [row[column][i] for i in order] for column in per_completion}}, ""


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


def _checked(text: Any, column: str, where: str) -> tuple[Any, str]:
    """A text with its messages in one form, and the reason why it is unusable, or "".

    Raises InputError if it is neither a string nor chat messages.
    """
    if text is None:
        return text, f"empty {column}"
    if isinstance(text, str):
        if not _is_unicode(text):
            return text, f"{column} with half a character (a lone surrogate)"
        return text, "" if text.strip() else f"empty {column}"
    if not isinstance(text, list) or not all(map(is_message, text)):
        raise InputError(
            f'{where}: "{column}" is {type(text).__name__}; it must be text, or messages with role and content'
        )
    try:
        messages, fault = normalised(text)
    except InputError as error:
        raise InputError(f'{where}: "{column}": {error}') from error
    if not messages:
        return messages, fault or f"empty {column}"
    if any(not _is_unicode(message["content"]) for message in messages):
        return messages, f"{column} with half a character (a lone surrogate)"
    # a call of tools, and the answer of a tool, may be without words
    empty = (not (m["content"].strip() or m.get("tool_calls") or m["role"] == "tool") for m in messages)
    return messages, fault or (f"empty {column}" if any(empty) else "")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain_text(text: Text) -> str:
    """A text as a readable string: chat messages become lines of `role: content`."""
    return text if isinstance(text, str) else "\n".join(f"{m['role']}: {m['content']}" for m in text)


# --- chat messages ----------------------------------------------------------------------------------------------------

_NAMES_OF_ROLES = {
    "user": "user human prompter instruction",
    "assistant": "assistant gpt bot model chatgpt bing bard function_call",
    "system": "system developer",
    "tool": "tool function observation ipython function_response",
}
ROLES = {name: role for role, names in _NAMES_OF_ROLES.items() for name in names.split()}
# columns of a message that chat templates read, and the weight of a reply; others, such as a time stamp, are removed
MESSAGE_COLUMNS = ("tool_calls", "tool_call_id", "name", "reasoning_content", "thinking", "weight")


def is_message(value: Any) -> bool:
    """Whether a value has the columns of a chat message, in any form that `normalised` accepts."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("role", value.get("from")), str)
        and bool({"content", "value", "tool_calls"} & value.keys())
    )


def normalised(messages: list[Any]) -> tuple[list[dict[str, Any]], str]:
    """Chat messages as [{"role", "content", ...}], and the reason to drop them, or "".

    Roles of other data sets become user, assistant, system or tool, see ROLES; ShareGPT's `from` and `value` become
    `role` and `content`. Content in parts, [{"type": "text", "text"}], is joined; with a picture it is a reason to
    drop. Null beside `tool_calls` becomes "". An empty system message and null columns are removed. Raises InputError,
    without place, for anything else.
    """
    result, fault = [], ""
    for message in messages:
        if not is_message(message):
            raise InputError("a message is an object with role and content")
        name = message.get("role", message.get("from"))
        if (role := ROLES.get(name.lower())) is None:
            raise InputError(f"a message has the unknown role {name[:40]!r}; roles are {', '.join(ROLES)}")
        content, part_fault = _content(message)
        fault = fault or part_fault
        if role == "system" and not content.strip():
            continue
        kept = {key: message[key] for key in MESSAGE_COLUMNS if message.get(key) is not None}
        if "weight" in kept and (kept["weight"] not in (0, 1) or isinstance(kept["weight"], bool)):
            raise InputError(f"a message has the weight {kept['weight']!r}; it must be 0 or 1")
        if role != "assistant":
            kept.pop("weight", None)
        elif "weight" in kept:
            kept["weight"] = int(kept["weight"])
        if "tool_calls" in kept:
            kept["tool_calls"] = _without_null(kept["tool_calls"])
        result.append({"role": role, "content": content, **kept})
    return result, fault


def without_weights(text: Text) -> Text:
    """A text without the weights of its replies, which only demonstrations have."""
    if isinstance(text, list):
        return [{key: value for key, value in message.items() if key != "weight"} for message in text]
    return text


def _content(message: dict[str, Any]) -> tuple[str, str]:
    """The content of a message as a string, and the reason to drop the message, or ""."""
    content = message.get("content", message.get("value"))
    if content is None:
        content = ""
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, str | dict) for part in parts):
        raise InputError(f"a message has {type(content).__name__} as its content; it must be text")
    texts = [part if isinstance(part, str) else part.get("text") for part in parts]
    kinds = {str(part.get("type", "text")) for part in parts if isinstance(part, dict)}
    if any("image" in kind for kind in kinds):
        return "", "message with a picture"
    if not kinds <= {"text", "input_text", "output_text"} or not all(isinstance(text, str | None) for text in texts):
        return "", "message with a part that is not text"
    return "".join(text or "" for text in texts), ""


def _without_null(value: Any) -> Any:
    """Lists and objects without null; tables with merged columns have null for every argument of another tool."""
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value] if isinstance(value, list) else value
