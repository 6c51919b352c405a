"""Text from data, models and file names, escaped for a terminal and for Markdown."""

import html
import re
import unicodedata

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
