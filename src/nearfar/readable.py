"""Text of strangers, fit to be shown: no character of it moves a cursor, sets a title or turns a line."""

from __future__ import annotations

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories: control, format (bidirectional overrides among them), surrogates, and the separators of
lines and paragraphs."""


# What is imported is imported where it is needed: every program loads this before it heeds Ctrl-C.


def readable(text: str, keep: str = "") -> str:
    r"""`text` with each character that a terminal would obey, or not show, as ``\x1b`` or ``\u202e``.

    `keep` names those that stay, such as a newline.
    """
    return text if text.isprintable() else "".join(_escaped(each, keep) for each in text)


def percent(text: str) -> str:
    """`text` with each such character percent-encoded as UTF-8: a URL stays one and asks for the same."""
    return text if text.isprintable() else "".join(map(_encoded, text))


def json_line(value: object) -> str:
    """`value` as JSON on one line, such characters as ``\\uXXXX``: a parser reads the same value."""
    import json

    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if text.isprintable() else "".join(map(_json, text))


def hidden(character: str) -> bool:
    """True for a character that a terminal would obey, or not show."""
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
