"""Messages for rows that are refused: what was seen, and what to write in the recipe."""

from typing import Any

from data.shapes.table import Shape
from data.shapes.values import is_absent, kind_of
from rlhf.rows import Row

PAGE = "docs/data-sets.md"
TARGETS = {
    "text": ("text",),
    "demonstrations": ("prompt", "completion"),
    "comparisons": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
}


def columns_left(left: list[str], shape: Shape, of_prompt: set[str], row: Row, kind: str) -> str:
    """The message for columns that look like the prompt and that the shape does not use."""
    names = " and ".join(left)
    used = [column for column in row if column in of_prompt]
    others = [c for c in row if c not in of_prompt and c not in left and isinstance(row[c], str | list | dict)]
    both, one = _mapping([*left, *used], others, row, kind), _mapping(used or ["prompt"], others, row, kind)
    return (
        f"{names} may be a part of the prompt, and the prompt of this row ({shape.name}) is without it; "
        f"the columns are {seen(row)}. Write in the recipe `columns: {both}` if it belongs to the prompt, "
        f"or `columns: {one}` if not; see {PAGE}"
    )


def unknown(row: Row, kind: str, misfits: list[str]) -> str:
    """The message for a row of no known shape."""
    texts = [column for column, value in row.items() if isinstance(value, str | list | dict)]
    looks = [
        c for c in texts if any(word in str(c).lower() for word in ("prompt", "question", "instr", "query", "input"))
    ]
    prompt = looks[:1] or texts[:1]
    mapping = _mapping(prompt, [c for c in texts if c not in prompt], row, kind)
    close = f" ({'; '.join(misfits[:2])})" if misfits else ""
    asked = ""
    if kind != "text" and isinstance(row.get("chosen"), str) and isinstance(row.get("rejected"), str):
        asked = ", or `common_prefix: true` if the prompt is what both texts begin with,"
    return (
        f"no known columns of {kind}{close}; the row has {seen(row)}. Write in the recipe which columns are meant, "
        f"`columns: {mapping}`{asked} or a function of your own, `adapter: my_module:rows`; see {PAGE}"
    )


def seen(row: Row) -> str:
    """The columns of a row with their types."""
    return (
        ", ".join(f"{column} ({'null' if is_absent(value) else kind_of(value)})" for column, value in row.items())
        or "no columns"
    )


def _mapping(prompt: list[str], others: list[str], row: Row, kind: str) -> str:
    """A mapping of a row's columns to those of the kind, as it is written in a recipe."""
    targets = TARGETS[kind]
    sources: dict[str, Any] = {}
    if targets[0] == "prompt":
        sources["prompt"] = f"[{', '.join(prompt)}]" if len(prompt) > 1 else (prompt or ["<column>"])[0]
    rest = [target for target in targets if target != "prompt"]
    named = {target: target for target in rest if target in row}
    free = iter(
        [column for column in (others if targets[0] == "prompt" else [*prompt, *others]) if column not in named]
    )
    sources |= {target: named.get(target) or next(free, "<column>") for target in rest}
    return "{" + ", ".join(f"{target}: {source}" for target, source in sources.items()) + "}"
