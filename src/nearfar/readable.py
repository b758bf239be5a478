"""Escapes text from outside for display: no character moves a cursor, sets a title or reverses a line."""

from __future__ import annotations

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories: control, format (bidirectional overrides among them), surrogates, and the separators of
lines and paragraphs."""


# Imports are inside the functions: every program loads this module before it handles Ctrl-C.


def readable(text: str, keep: str = "") -> str:
    r"""`text`, with escapes such as ``\x1b`` or ``\u202e`` for characters that control a terminal, or are
    invisible.

    `keep` lists those that stay, such as a newline.
    """
    return text if text.isprintable() else "".join(_escaped(each, keep) for each in text)


def percent(text: str) -> str:
    """`text` with each such character percent-encoded as UTF-8: a URL remains valid and equivalent."""
    return text if text.isprintable() else "".join(map(_encoded, text))


def json_line(value: object) -> str:
    """`value` as JSON on one line, with such characters as ``\\uXXXX``: a parser reads the same value."""
    import json

    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if text.isprintable() else "".join(map(_json, text))


def hidden(character: str) -> bool:
    """True for a character that controls a terminal, or is invisible."""
    if " " <= character <= "~":
        return False
    import unicodedata

    return unicodedata.category(character) in HIDDEN


def _escaped(character: str, keep: str) -> str:
    if character in keep or not hidden(character):
        return character
    return character.encode("unicode_escape").decode()


def _encoded(character: str) -> str:
    if not hidden(character):
        return character
    from urllib.parse import quote

    return quote(character, safe="", errors="replace")


def _json(character: str) -> str:
    if not hidden(character):
        return character
    import json

    return json.dumps(character)[1:-1]
