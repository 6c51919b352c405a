"""The Chinese pages have the commands, the numbers and the links of the English ones."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for path in (*ROOT.glob("*.zh.md"), *ROOT.glob("docs/*.zh.md")))
NUMBER = r"(?<![\w.])\.?\d+(?:[.,]\d+)*"


def english(page: Path) -> str:
    """The text of the page of which this one is the translation."""
    return page.with_name(page.name.replace(".zh.md", ".md")).read_text(encoding="utf-8")


def parts(text: str) -> tuple[list[str], str]:
    """The blocks of code without comments, and the text without them."""
    blocks = re.findall(r"^```.*?^```$", text, flags=re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(r" +#.*", "", block) for block in blocks], rest


def numbers(text: str) -> Counter:
    """How often each number occurs, in the text and not in names of files or in code."""
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)
    return Counter(re.findall(NUMBER, re.sub(r"[\u3000-\uffef\u4e00-\u9fff]", " ", prose)))


def targets(text: str) -> Counter:
    """How often each link and each command in backticks occurs, without the links between the languages."""
    text = re.sub(r"^.*English.*中文.*$|\[中文\]\([^)]*\)", "", text, flags=re.MULTILINE)
    return Counter([*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_translation_has_the_code_the_numbers_and_the_links_of_the_original(page):
    ours, theirs = parts(page.read_text(encoding="utf-8")), parts(english(page))
    assert ours[0] == theirs[0]
    assert numbers(ours[1]) == numbers(theirs[1])
    assert targets(ours[1]) == targets(theirs[1])


def test_a_changed_number_a_changed_command_and_a_missing_link_are_found():
    text = "It takes 5 minutes.\n\n```\nmake ppo  # all\n```\n\nSee [a](docs/a.md)."
    code, rest = parts(text)
    assert (code, numbers(rest), targets(rest)) == (["```\nmake ppo\n```"], {"5": 1}, {"docs/a.md": 1})
    assert numbers("用时5分钟") == numbers("It takes 5 minutes.") != numbers("用时 6 分钟")


def test_the_readme_is_translated():
    assert ROOT / "README.zh.md" in PAGES
