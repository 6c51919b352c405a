"""Text from data, models and file names, escaped for a terminal and for Markdown, and its width on a terminal."""

import html
import re
import textwrap
import unicodedata

from rich.cells import cell_len

# Control and format characters, line and paragraph separators, lone surrogates: they move the cursor, start commands of
# the terminal, hide text, change its order, or can't be encoded.
_ESCAPED = {"Cc", "Cf", "Zl", "Zp", "Cs"}
# Format characters that are kept: the joiners, which Persian, Indic scripts and emoji need, and the visible signs of
# Arabic, Syriac and Kaithi (Unicode's Prepended_Concatenation_Mark).
_KEPT = set("\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
# Markdown's syntax within a line. An underscore within a word has no meaning there.
_MARKDOWN = re.compile(r"[\\`*\[|~]|(?<![^\W_])_|_(?![^\W_])")


def printable(text: str) -> str:
    r"""The text on one line: control, bidirectional and invisible characters become `\x1b`, `\n`, `\u202e` etc.

    Backslashes stay as they are: a second call changes nothing, but the result can't always be decoded.
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _ESCAPED and character not in _KEPT
        else character
        for character in text
    )


def markdown(text: str) -> str:
    """Markdown that shows the text literally, also in a table cell. A newline becomes `<br>`; the rest is `printable`."""
    lines = (html.escape(printable(line), quote=False) for line in text.split("\n"))
    return "<br>".join(_MARKDOWN.sub(r"\\\g<0>", line) for line in lines)


# --- width ------------------------------------------------------------------------------------------------------------

# Chinese and Japanese characters, kana, their punctuation: a line may end after each
WIDE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uff60\U00020000-\U0003ffff"
# what a line is not broken within: such a character or a word, of at most 40 letters, with what closes it
_UNITS = re.compile(rf"(?:[{WIDE}]|[^\s{WIDE}]{{1,40}})[，。、；：？！）》」』】”’…]*\s*|\s+")


def display_width(text: str) -> int:
    """The columns of a terminal that the text takes: two for a Chinese character, none for a combining one."""
    return cell_len(text)


def pad_right(text: str, width: int) -> str:
    """The text with blanks after it, up to this number of columns."""
    return text + " " * (width - display_width(text))


def wrap(text: str, width: int, first: str = "", rest: str = "", keep_blanks: bool = False) -> list[str]:
    """The text in lines of at most `width` columns that begin with `first` and `rest`, as textwrap.wrap makes them.

    A text with wide characters, which has few blanks, is broken after any of them. `keep_blanks`: all white space stays
    as it is.
    """
    if display_width(text) <= len(text):
        return textwrap.wrap(
            text,
            width,
            initial_indent=first,
            subsequent_indent=rest,
            expand_tabs=not keep_blanks,
            replace_whitespace=not keep_blanks,
            drop_whitespace=not keep_blanks,
        )
    lines, line = [], first
    for unit in _UNITS.findall(text):
        if line not in (first, rest) and display_width(line + unit.rstrip()) > width:
            lines.append(line)
            line = rest
        line += unit
    return [part if keep_blanks else part.rstrip() for part in (*lines, line)]
