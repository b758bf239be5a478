"""Text of strangers, fit to be shown: no character of it moves a cursor, sets a title or turns a line."""

from __future__ import annotations

import json
import re
import unicodedata
from urllib.parse import quote

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories: control, format (bidirectional overrides among them), surrogates, and the separators of
lines and paragraphs."""
_OUTSIDE = re.compile(r"[^ -~]")
"""Characters that need a look at their category."""


def readable(text: str, keep: str = "") -> str:
    r"""`text` with each character that a terminal would obey, or not show, as ``\x1b`` or ``\u202e``.

    `keep` names those that stay, such as a newline.
    """
    return text if text.isprintable() else _OUTSIDE.sub(lambda found: _escaped(found[0], keep), text)


def percent(text: str) -> str:
    """`text` with each such character percent-encoded as UTF-8: a URL stays one and asks for the same."""
    return text if text.isprintable() else _OUTSIDE.sub(lambda found: _encoded(found[0]), text)


def json_line(value: object) -> str:
    """`value` as JSON on one line, such characters as ``\\uXXXX``: a parser reads the same value."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if text.isprintable() else _OUTSIDE.sub(lambda found: _json(found[0]), text)


def hidden(character: str) -> bool:
    """True for a character that a terminal would obey, or not show."""
    return unicodedata.category(character) in HIDDEN


def _escaped(character: str, keep: str) -> str:
    if character in keep or not hidden(character):
        return character
    return character.encode("unicode_escape").decode()


def _encoded(character: str) -> str:
    return quote(character, safe="", errors="replace") if hidden(character) else character


def _json(character: str) -> str:
    return json.dumps(character)[1:-1] if hidden(character) else character
