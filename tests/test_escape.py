"""Text that is safe to print: on a terminal, and in Markdown as a Markdown parser reads it."""

import re
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.escape import display_width, markdown, pad_right, printable, wrap

# C0 and C1 controls; line and paragraph separator; the bidirectional formatting characters of UAX 9; surrogates
FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
texts = st.text(st.characters() | st.sampled_from("\x1b\x07\r\n\t\x9b\u202e\u2066\u2028\ud800\u200b\\|*_`<&[]~#"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("over\rwritten\x08\x7f", r"over\rwritten\x08\x7f"),
        ("two\nlines\tand a tab", r"two\nlines\tand a tab"),
        ("\x9b2J\x85", r"\x9b2J\x85"),
        ("live\u202eevil\u2066\u200f\u061c", r"live\u202eevil\u2066\u200f\u061c"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("in\u200bvis\u00adible\ufeff", r"in\u200bvis\xadible\ufeff"),
        ("\U000e0068\U000e0069", r"\U000e0068\U000e0069"),
        ("half \ud83d, a byte \udcff", r"half \ud83d, a byte \udcff"),
    ],
)
def test_what_a_terminal_does_not_show_as_it_is_becomes_an_escape(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        r"C:\new\x1b",
        "naïve e\u0301, “quotes” – and\u00a0so on",
        "中文，日本語　한국어",
        "👩\u200d🚀 ❤\ufe0f 👍🏽 🇫🇷",
        "می\u200cخواهم \u06dd شْ",
        "क्\u200dष",
        "\ue000 \ufffd",
    ],
)
def test_ordinary_text_of_any_script_stays_as_it_is(text):
    assert printable(text) == text


@given(texts)
def test_no_text_keeps_a_forbidden_character_and_a_second_call_changes_nothing(text):
    shown = printable(text)
    assert not FORBIDDEN.search(shown)
    assert printable(shown) == shown


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs", "Co"])))
def test_letters_marks_numbers_punctuation_symbols_and_spaces_never_change(text):
    assert printable(text) == text


@given(texts.map(lambda text: text.replace("\\", "")))
def test_an_escape_tells_which_character_it_was(text):
    assert printable(text).encode("latin-1", "backslashreplace").decode("unicode_escape") == text


# --- Markdown ---------------------------------------------------------------------------------------------------------


def rendered(source: str) -> list[tuple[str, str]]:
    """(tag, text) of each table cell and heading of a Markdown text, which holds no other markup than `<br>`."""
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    elements, tokens = [], parser.parse(source)
    for opening, token in zip(tokens, tokens[1:], strict=False):
        if token.type == "inline":
            elements.append((opening.tag, "".join(map(_literal, token.children))))
    return elements


def _literal(child) -> str:
    if (child.type, child.content) == ("html_inline", "<br>"):
        return "\n"
    assert child.type == "text", child
    return child.content


@pytest.mark.parametrize(
    "text",
    [
        "a | b \\| c \\\\| d \\",
        "<script>alert(1)</script> <b>&lt;&#124;&amp;",
        "[x](javascript:alert(1)) ![i](http://a.b/c) [ref] [^1] <http://a.b>",
        "*bold* **b** __init__ _i_ snake_case ~~gone~~ `code` ``a`b``",
        "# heading",
        "two\n# lines\n\n|---|---|\n> end",
        "\\*not\\* \\x1b \\<",
    ],
)
def test_markdown_shows_every_character_of_a_text(text):
    cell = markdown(text)
    assert rendered(f"| a | b |\n|---|---|\n| {cell} | end |\n")[2:] == [("td", text), ("td", "end")]
    assert rendered(f"# {cell}, 24 prompts\n") == [("h1", f"{text}, 24 prompts")]


@given(texts)
def test_no_text_breaks_out_of_its_table_cell(text):
    lines = "\n".join(map(printable, text.split("\n")))
    cells = rendered(f"| a | b |\n|---|---|\n| {markdown(text)} | end |\n")[2:]
    assert cells == [("td", lines.strip()), ("td", "end")]


def test_markdown_leaves_prose_and_names_as_they_are():
    text = """Don't say "no": it's 5 + 4 = 9 (or $9.00), 100 % of snake_case_2 - yes! Is it? https://a.b/c_d #1"""
    assert markdown(text) == text


# --- width ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, columns", [("abc", 3), ("你好", 4), ("你好，", 6), ("e\u0301", 1), ("ｱ", 1), ("한국", 4), ("🙂", 2), ("", 0)]
)
def test_the_width_of_a_text_is_in_columns_of_a_terminal(text, columns):
    assert display_width(text) == columns
    assert pad_right(text, 8) == text + " " * (8 - columns)


def test_a_chinese_text_is_wrapped_by_its_width_and_no_line_begins_with_a_comma():
    lines = wrap("我们今天，去 GPT-2 的 library 看书。" * 3, 20, "sft  ", "     ")
    assert all(display_width(line) <= 22 for line in lines)  # closing punctuation may go two columns beyond the end
    assert lines[0].startswith("sft  我们今天，") and all(line.startswith("     ") for line in lines[1:])
    assert not any(line.strip()[0] in "，。" for line in lines[1:])
    assert "".join(line[5:] for line in lines).replace(" ", "") == "我们今天，去GPT-2的library看书。" * 3


@pytest.mark.parametrize("text", ["", "a b", "one two  three four five six seven", "x" * 50])
@pytest.mark.parametrize("keep", [False, True])
def test_a_text_without_wide_characters_is_wrapped_as_textwrap_does(text, keep):
    kept = {"expand_tabs": False, "replace_whitespace": False, "drop_whitespace": False} if keep else {}
    assert wrap(text, 12, "> ", "  ", keep) == textwrap.wrap(
        text, 12, initial_indent="> ", subsequent_indent="  ", **kept
    )


def test_wrapping_keeps_blanks_if_asked():
    text = "  你好 世界  " * 4
    assert "".join(wrap(text, 9, keep_blanks=True)) == text
