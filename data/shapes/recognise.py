"""Recognises the shape of a row by its columns, and refuses a row if its prompt is in doubt."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from data.shapes import refusals, values
from data.shapes.kinds import Group, group_key, rows_of_forms
from data.shapes.table import CHAT, COMMON_PREFIX, DEMONSTRATION, KINDS, PROMPT, RATED, SHAPES, TEXT, TREE, Shape
from data.shapes.values import Drop, Unfit, is_absent, texts_in
from rlhf import InputError
from rlhf.rows import ROLES, Row, Tally

# columns that describe an answer: they are dropped when the answer is built from other columns
ANSWERS = ("completion", "completions", "ranks", "ended", "chosen", "rejected")
# beside one of these columns, `text` may belong to the prompt, as the input of an instruction
INSTRUCTIONS = {"instruction", "question", "query", "problem", "input"}
# columns that belong to the prompt of any shape, with other names for them
BESIDE = {"system": "system|system_prompt|system_message", "history": "history", "tools": "tools"}


@dataclass
class Found:
    """The shape of a row, what its function returned, and the columns that it uses."""

    shape: Shape
    forms: list[Row]
    of_prompt: set[str]
    used: set[str]


def rows_of(
    rows: Iterable[tuple[str, Any]], kind: str, tally: Tally, common_prefix: bool = False
) -> Iterator[tuple[str, Row]]:
    """(place, row of `kind`) for raw rows with their places; `tally` counts those that can't be used.

    Consecutive answers to the same prompt, with ratings, become a ranking; so memory holds one prompt's rows. With
    `common_prefix` the prompt of two texts is their common prefix. Raises InputError, with the place, for a row whose
    shape is unknown or in doubt.
    """
    group: Group | None = None
    for where, raw in rows:
        try:
            found = _found(raw, kind, common_prefix)
            key = _key(found, raw, kind)
            if group and key != group.key:
                yield from ((group.where, row) for row in group.rows(kind, tally))
                group = None
            if key:
                group = group or Group(key, where, found.shape.gives == TREE)
                group.forms += found.forms
                group.others.append(_others(raw, found, kind, {"prompt": None}))
            else:
                yield from ((where, row) for row in _rows(raw, found, kind, tally))
        except Drop as drop:
            tally.dropped[str(drop)] += 1
        except Unfit as error:
            raise InputError(f"{where}: {error}") from error
    if group:
        yield from ((group.where, row) for row in group.rows(kind, tally))


def _key(found: Found, raw: Any, kind: str) -> str:
    """Equal for consecutive rows that belong together; "" if rows are not grouped."""
    if found.shape.gives == TREE:
        return f"tree {raw['message_tree_id']}"
    return group_key(found.forms[0]) if found.shape.gives == RATED and kind == "comparisons" else ""


def _rows(raw: Any, found: Found, kind: str, tally: Tally) -> list[Row]:
    if not found.forms:
        raise Drop("no answers")
    rows = rows_of_forms(found.forms, kind, tally)
    return [{**_others(raw, found, kind, row), **row} for row in rows]


def _others(raw: Any, found: Found, kind: str, row: Row) -> Row:
    """The further columns of a raw row, and the raw columns that `row` replaces, in the order of the raw row."""
    if not isinstance(raw, dict):
        return {}
    gone = found.of_prompt if kind == "prompts" else found.used
    if kind in ("demonstrations", "comparisons"):
        gone = gone | set(ANSWERS)
    gone = gone | {name for name in ("prompt", "messages", "text", *ANSWERS) if is_absent(raw.get(name))}
    answers = found.forms[0].get("completions") if kind == "demonstrations" else None
    k = len(answers) if isinstance(answers, list) else 0
    # a list with one entry per answer is dropped, because a demonstration has only the best answer
    kept = {c: v for c, v in raw.items() if c not in gone and not (k and isinstance(v, list) and len(v) == k)}
    return {column: value for column, value in raw.items() if column in kept or column in row}


# --- recognition ------------------------------------------------------------------------------------------------------

_FIRST = {CHAT: 0, RATED: 0, DEMONSTRATION: 0, TEXT: 0, PROMPT: 2}
_BY_KIND = {
    kind: sorted(
        (shape for shape in SHAPES if kind in KINDS[shape.gives]),
        key=lambda shape: 0 if kind == "comparisons" or shape.first else _FIRST.get(shape.gives, 1),  # noqa: B023
    )
    for kind in ("text", "demonstrations", "comparisons", "prompts")
}


def _found(raw: Any, kind: str, common_prefix: bool) -> Found:
    """Raises Unfit, with what to write, if no shape fits or if columns of the prompt are left."""
    if isinstance(raw, str):
        raw = {"text": raw} if kind == "text" else {"prompt": [values.user(raw)]}
    if not isinstance(raw, dict):
        raise Unfit(f"a row is an object with columns, not {values.kind_of(raw)}")
    shapes = [COMMON_PREFIX, *_BY_KIND[kind]] if common_prefix and kind != "text" else _BY_KIND[kind]
    present = {column: value for column, value in raw.items() if not is_absent(value)}
    if kind != "text" and (present.get("image") or present.get("images")):
        raise Drop("row with a picture")
    misfits = []
    for shape in shapes:
        if columns := _columns(shape, present):
            try:
                found = _applied(shape, columns, present)
            except Unfit as error:
                misfits.append(f"{shape.name}: {error}")
                continue
            if kind == "comparisons" and shape.not_ranked:
                raise Unfit(f"no comparisons ({shape.name}): {shape.not_ranked}")
            if left := _left(found, present, kind):
                of_prompt = [column for column in present if column in found.of_prompt]
                raise Unfit(refusals.columns_left(left, found.shape.name, of_prompt, present, kind))
            if kind == "demonstrations" and found.shape.gives == DEMONSTRATION:
                labels = [c for c, v in present.items() if c not in found.used and refusals.may_be_bad(c, v)]
                if labels:
                    raise Unfit(refusals.labelled(labels, found.shape.name, present))
            return found
    for shape in shapes:
        if not misfits and (columns := _columns(shape, raw)):
            empty = next(c for c in (*columns[0], *columns[1]) if is_absent(raw[c]))
            raise Drop(f"empty {empty}")
    raise Unfit(refusals.unknown(raw, kind, misfits))


def _columns(shape: Shape, row: Row) -> tuple[list[str], list[str]] | None:
    """The columns of a row that the shape needs, of the prompt and of the answers; None if one is missing."""
    prompt = [_first(names, row) for names in shape.prompt.split()]
    answers = [_first(names, row) for names in shape.answers.split()]
    return None if "" in (*prompt, *answers) else (prompt, answers)


def _first(names: str, row: Row) -> str:
    return next((name for name in names.split("|") if name in row), "")


def _applied(shape: Shape, columns: tuple[list[str], list[str]], row: Row) -> Found:
    """What the shape's function returns, with `system`, `history` and `tools` in the prompt."""
    prompt, answers = columns
    may = [name for name in shape.may.split() if name in row]
    if shape.gives == TREE:
        if not all(isinstance(row[c], str) for c in (*prompt, *answers)):
            raise Unfit("message_id, text, role and message_tree_id are not all text")
        forms = [row]
    else:
        result = shape.rows(*(row[c] for c in (*prompt, *answers)), **{name: row[name] for name in may})
        forms = result if isinstance(result, list) else [result]
    beside = {}
    if shape.gives not in (TREE, TEXT):
        found = {name: _first(names, row) for name, names in BESIDE.items()}
        beside = {name: column for name, column in found.items() if column and column not in (*prompt, *answers)}
        forms = [_with_beside(form, {name: row[column] for name, column in beside.items()}) for form in forms]
    of_prompt = {*prompt, *(name for name in may if name in ("input", "context")), *beside.values()}
    return Found(shape, forms, of_prompt, of_prompt | {*answers, *may})


def _with_beside(form: Row, beside: Row) -> Row:
    """A form with earlier turns and a system message before its prompt, and the tools beside it."""
    if "tools" in beside and (tools := values.tools(beside["tools"])):
        form = {**form, "tools": tools}
    before = values.history(beside["history"]) if beside.get("history") else []
    if system := beside.get("system"):
        before = [{"role": "system", "content": values.text(system, "system")}, *before]
    if not before and "system" not in beside:
        return form
    column = "messages" if "messages" in form else "prompt"
    said = [values.user(form[column])] if isinstance(form[column], str) else form[column]
    if said and said[0]["role"] == "system" and before and before[0]["role"] == "system":
        if said[0]["content"].strip() != before[0]["content"].strip():
            raise Unfit("the column system differs from the first message, which is a system message too")
        before = before[1:]
    return {**form, column: [*before, *said]}


# --- columns that are left --------------------------------------------------------------------------------------------


def _left(found: Found, row: Row, kind: str) -> list[str]:
    """The columns that look like a part of the prompt and are neither used nor repeated in the row."""
    if kind == "text":
        return []
    own = "\n".join(text.strip() for form in found.forms for text in texts_in(form))
    parts = [text.strip() for column in found.used for text in texts_in(row[column]) if text not in ROLES]
    ignored = found.used | set(found.shape.ignores.split())
    names = {"text", "content"} if INSTRUCTIONS & found.of_prompt else set()
    left = [column for column in row if column not in ignored and (refusals.is_of_prompt(column) or column in names)]
    return [column for column in left if not _is_repeated(row[column], own, parts)]


def _is_repeated(value: Any, own: str, parts: list[str]) -> bool:
    """Whether the row contains all texts of a value, or the value is a text that contains all parts of the row."""
    if isinstance(value, str) and parts and all(_holds(value, part) for part in parts):
        return True
    value = values.transcript_prompt(value) or value if isinstance(value, str) else value
    texts = {text.strip() for text in texts_in(value)} - ROLES.keys()
    return all(_holds(own, text) for text in texts)


def _holds(whole: str, part: str) -> bool:
    """Whether a text contains another one, at word boundaries."""
    start = whole.find(part)
    while start >= 0:
        before, after = whole[start - 1 : start] if start else "", whole[start + len(part) : start + len(part) + 1]
        if not ((before.isalnum() and part[:1].isalnum()) or (after.isalnum() and part[-1:].isalnum())):
            return True
        start = whole.find(part, start + 1)
    return not part
