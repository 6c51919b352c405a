"""Marked blocks of the pages: what stands between `<!-- measured: NAME -->` and `<!-- end -->` is made from a file."""

import re
from functools import partial
from pathlib import Path

from tests.pages import programs, results, sample_output
from tests.pages.measured import ROOT, Missing

PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"<!-- measured: ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)
PUBLISH = "python -m tests.pages"

# what makes the text of a block, and the command that measures its numbers
BLOCKS = {
    "summary": (results.summary, "make evaluate"),
    "summary-zh": (partial(results.summary, "zh"), "make evaluate"),
    "output": (sample_output.output, "make evaluate"),
    "default": (results.default, "make evaluate"),
    "seconds": (results.seconds, "make evaluate"),
    **{r: (partial(results.other, r), f"make evaluate RECIPE={r}") for r in ("stories260k", "sentiment", "sums")},
    # options name the folder of their rows, and the judge
    **{r: (partial(results.other, r, arguments=True), f"make evaluate RECIPE={r}") for r in ("human", "smollm2")},
    **programs.BLOCKS,
}
# Tables from before their program wrote a file. The next run of the command replaces them: remove the name then.
PENDING = set(programs.PENDING)


def text_of(name: str) -> str | None:
    """The text of a block from its file, or that it is not measured; None if its table is older than its file."""
    make, command = BLOCKS[name]
    try:
        return make()
    except Missing:
        return None if name in PENDING else f"Not measured yet: `{command}`."


def rewritten(page: str) -> str:
    """The page with every marked block as its file says. Raises KeyError for an unknown name."""

    def replace(found: re.Match[str]) -> str:
        text = text_of(found[1])
        return found[0] if text is None else f"<!-- measured: {found[1]} -->\n{framed(text)}<!-- end -->"

    return BLOCK.sub(replace, page)


def framed(text: str) -> str:
    """A table or fence needs an empty line before the comment that follows; all blocks have it."""
    return f"\n{text}\n\n"


def names_in(page: str) -> list[str]:
    """The names of the blocks of a page."""
    return [found[1] for found in BLOCK.finditer(page)]


def rewrite() -> list[Path]:
    """Writes the pages whose blocks have changed, and returns their paths."""
    changed = []
    for path in PAGES:
        old = path.read_text(encoding="utf-8")
        if (new := rewritten(old)) != old:
            path.write_text(new, encoding="utf-8")
            changed.append(path)
    return changed
