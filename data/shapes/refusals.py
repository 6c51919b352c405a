"""Messages for rows that are refused: what was seen, and what to write in the recipe."""

import re
from typing import Any

from data.shapes.values import is_absent, kind_of
from rlhf.rows import Row, is_message

PAGE = "docs/data-sets.md"
TARGETS = {
    "text": ("text",),
    "demonstrations": ("prompt", "completion"),
    "comparisons": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
}
# parts of the names of columns that answers have
_HINTS = {
    "text": "text|content|document|body",
    "completion": "completion|answer|response|output|reply|target|solution",
    "chosen": "chosen|best|better|good|prefer|win|accept|positive",
    "rejected": "reject|worst|worse|bad|lose|negative",
}
# the last word of the name of a column that may belong to the prompt
PROMPT_WORDS = set(
    "prompt prompts question questions query instruction instructions input inputs context contexts history system "
    "conversation conversations dialog dialogue messages message problem passage passages article articles document "
    "documents paragraph paragraphs background premise hypothesis definition story knowledge evidence table schema "
    "steps prefix functions tools option options choice choices endings opa opb opc opd".split()
)
# names of columns that may belong to the prompt: the choices of a question (C-Eval), code to complete (APPS), and the
# system message and tools of HuggingFaceTB/smoltalk2
PROMPT_NAMES = {"A", "B", "C", "D", "starter_code", "chat_template_kwargs"}
# words that say that an answer is a bad one, in a column whose name ends with one of LABELS
LABELS = {"label", "labels", "correct", "safe"}
_BAD = set("unsafe harmful toxic bad incorrect wrong rejected negative false no hallucinated".split())


def is_of_prompt(column: Any) -> bool:
    """Whether the name of a column says that it may be a part of the prompt, as `initial_reason_steps` does."""
    words = _words(column)
    choice = words[:1] in (["option"], ["choice"])  # option_a
    return bool(words) and (words[-1] in PROMPT_WORDS or choice or column in PROMPT_NAMES)


def _words(column: Any) -> list[str]:
    words = re.findall(r"[A-Z]{2,}(?![a-z])|[A-Za-z][a-z]*", str(column).replace("_", " "))
    return [word.lower() for word in words]


def may_be_bad(column: str, value: Any) -> bool:
    """Whether a column may say that the answer beside it is a bad one: `label` 0, `is_correct` false."""
    words = _words(column)
    if not words or words[-1] not in LABELS or {"prompt", "question", "input"} & set(words):
        return False
    values = value if isinstance(value, list) else [value]
    return any(v is not True and v in (0, 1, -1) if isinstance(v, int | float) else _is_bad(v) for v in values)


def _is_bad(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in _BAD | {"0", "1", "-1"}


def labelled(columns: list[str], name: str, row: Row) -> str:
    """The message for a row whose answer may be labelled as a bad one."""
    return (
        f"{' and '.join(columns)} may say that the answer is a bad one (the row is read as {name!r}; "
        f"its columns are {seen(row)}). In the recipe, write `columns: "
        f"{_mapping([c for c in row if is_of_prompt(c)], row, 'demonstrations')}` if not, or a function, "
        f"`adapter: my_module:rows`, if it does; see {PAGE}"
    )


def columns_left(left: list[str], name: str, of_prompt: list[str], row: Row, kind: str) -> str:
    """The message for columns that look like the prompt and that the shape of this name does not use."""
    if of_prompt == ["messages"] or not of_prompt:
        mapping = "{messages: messages}" if of_prompt else "{chosen: chosen, rejected: rejected}"
        what = f"write `columns: {mapping}` if it does not, or a function, `adapter: my_module:rows`, if it does"
    else:
        both, one = _mapping([*left, *of_prompt], row, kind), _mapping(of_prompt, row, kind)
        joinable = all(isinstance(row[column], str) for column in (*left, *of_prompt))
        put = f"`columns: {both}`" if joinable else "a function, `adapter: my_module:rows`,"
        what = f"write {put} if it does, or `columns: {one}` if it does not"
    return (
        f"{' and '.join(left)} may belong to the prompt, but the row is read as {name!r}, which does not use it; "
        f"the columns are {seen(row)}. In the recipe, {what}; see {PAGE}"
    )


def unknown(row: Row, kind: str, misfits: list[str]) -> str:
    """The message for a row of no known shape."""
    close = f" ({'; '.join(misfits[:2])})" if misfits else ""
    asked = ""
    if kind != "text" and isinstance(row.get("chosen"), str) and isinstance(row.get("rejected"), str):
        asked = ", or `common_prefix: true` if the prompt is the common prefix of both texts,"
    # a list of choices is not a prompt
    paths = [_path(column, value) for column, value in row.items() if is_of_prompt(column) and value]
    mapping = _mapping([path for path in paths if path and not path.endswith("]")], row, kind)
    return (
        f"no known columns of {kind}{close}; the row has {seen(row)}. Write in the recipe which columns are meant, "
        f"`columns: {mapping}`{asked} or a function of your own, `adapter: my_module:rows`; see {PAGE}"
    )


def seen(row: Row) -> str:
    """The columns of a row with their types."""
    types = (f"{column} ({'null' if is_absent(value) else kind_of(value)})" for column, value in row.items())
    return ", ".join(types) or "no columns"


def _mapping(prompt: list[str], row: Row, kind: str) -> str:
    """A mapping of a row's columns to those of the kind, as it is written in a recipe; "..." where none is found."""
    sources = {}
    for target in TARGETS[kind]:
        if target == "prompt":
            found = f"[{', '.join(prompt)}]" if len(prompt) > 1 else "".join(prompt)
        else:
            columns = [c for c in row if c == target] or [c for c in row if re.search(_HINTS[target], str(c).lower())]
            paths = (_path(column, row[column]) for column in columns if column not in prompt)
            found = next(filter(None, paths), "")
        sources[target] = found or "..."
    return "{" + ", ".join(f"{target}: {source}" for target, source in sources.items()) + "}"


def _path(column: str, value: Any) -> str:
    """The path of a text or a chat in a column; "" if there is none."""
    if isinstance(value, str) or (isinstance(value, list) and value and is_message(value[0])):
        return column
    if isinstance(value, list) and value and isinstance(value[0], str):
        return f"{column}[0]"
    if isinstance(value, dict):
        return next((path for key, inner in value.items() if (path := _path(f"{column}.{key}", inner))), "")
    return ""
