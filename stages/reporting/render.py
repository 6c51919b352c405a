"""The report as one page, which loads nothing, and as Markdown with its pictures beside it.

Every value that a template shows is escaped: for HTML by Jinja2, for Markdown by rlhf.escape; control characters and
those that change the direction of text become visible in both.
"""

import base64
import hashlib
import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlhf.escape import markdown, printable
from rlhf.run.files import write_text
from stages.reporting.answers import Comparison
from stages.reporting.content import Picture, Section, number

PAGE = Path(__file__).parent / "page"
FOLDER = "report"  # of the pictures beside the Markdown file


@dataclass(frozen=True)
class Report:
    """All that the page and the Markdown file show."""

    name: str  # of the run
    subtitle: str
    headline: list[tuple[str, str, str]]  # what, its value, what it means
    answers_lead: str
    comparison: Comparison | None
    missing_answers: str  # what to run if there are no answers
    sections: list[Section]


def write(report: Report, folder: Path) -> list[Path]:
    """Writes report.html, report.md and the pictures into a folder; the paths of the two files."""
    paths = [folder / "report.html", folder / "report.md"]
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    pictures = [picture for section in report.sections for picture in section.pictures]
    drawn = {f"{p.name}{end}": svg for p in pictures for end, svg in ((".svg", p.light), ("-dark.svg", p.dark))}
    for old in (folder / FOLDER).glob("*.svg"):
        if old.name not in drawn:
            old.unlink()
    for name, svg in drawn.items():
        write_text(folder / FOLDER / name, svg)
    for path, text in zip(paths, (page(report), as_markdown(report)), strict=True):
        write_text(path, text)
    return paths


def page(report: Report) -> str:
    """The page as HTML, with its style, script and pictures inside."""
    style, script = ((PAGE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    values = {"policy": Markup(policy), "style": Markup(style), "script": Markup(script)}
    return _render("report.html", visible, report, **values)


def as_markdown(report: Report) -> str:
    """The report as Markdown; its pictures are files in a folder beside it."""
    return _render("report.md", markdown, report, folder=FOLDER)


def visible(text: str) -> str:
    """The text with control characters and those that change its direction as escapes; lines stay."""
    return "\n".join(map(printable, text.split("\n")))


def _render(template: str, escape: Callable[[str], str], report: Report, **values: Any) -> str:
    def shown(value: Any) -> Any:
        """Text is made safe; HTML of the templates themselves, which is Markup, is left alone."""
        if isinstance(value, Markup):
            return value
        return Markup(escape(str(value))) if escape is markdown else escape(str(value))

    environment = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    code = _code_span if escape is markdown else lambda text: Markup("<code>{}</code>").format(escape(text))
    environment.filters["code"] = code
    environment.filters["prose"] = lambda text: _prose(text, code, shown)
    environment.filters["attribute"] = lambda text: Markup(html.escape(printable(text)))
    environment.filters["data"] = _data_uri
    environment.filters["signed"] = lambda value: f"{'+' if value > 0 else ''}{number(float(value))}"
    return environment.get_template(template).render(report=report, comparison=report.comparison, **values)


def _prose(text: str, code: Callable[[str], Markup], shown: Callable[[str], Any]) -> Markup:
    """A sentence whose parts between backticks are commands."""
    parts = text.split("`")
    return Markup("").join(code(part) if i % 2 else Markup.escape(shown(part)) for i, part in enumerate(parts))


def _code_span(text: str) -> Markup:
    """The text as code in Markdown, where nothing in it has a meaning."""
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


def _data_uri(picture: Picture, dark: bool = False) -> str:
    svg = picture.dark if dark else picture.light
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
