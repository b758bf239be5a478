"""The file name in a Content-Disposition field (RFC 6266), as servers send it. Pure; never raises."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from urllib.parse import unquote_to_bytes

__all__ = ["suggested_name"]

PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))', re.DOTALL)
ESCAPED = re.compile(r'\\(["\\])')
"""What a backslash escapes. Before anything else it stands for itself: no server needs to escape that, and
many send the path of a file on some disk."""
WORD = re.compile(r"=\?([A-Za-z0-9_-]{1,40})(?:\*[A-Za-z-]{0,20})?\?([bBqQ])\?([^?\s]*)\?=")
BETWEEN_WORDS = re.compile(r"(\?=)\s+(?==\?)")
CONTINUED = re.compile(r"filename\*(0|[1-9][0-9]?)(\*?)")
CHARSETS = re.compile(
    r"utf-?8|us-ascii|iso-?8859-?[0-9]{1,2}|windows-?125[0-8]|koi8-[ru]|shift_jis|euc-(jp|kr)|gb(2312|k|18030)|big5",
    re.IGNORECASE,
)
"""The character sets that are read."""


def suggested_name(values: Iterable[str]) -> str | None:
    """The name in the first of `values` that has one: a server may send the field more than once.

    ``filename*`` goes before ``filename`` (4.3), parts of RFC 2231 (``filename*0=``) between. Decoded, also
    from the words of RFC 2047, which mail knows and HTTP does not; not made safe. Bytes outside ASCII are
    read as UTF-8 if they are, else as ISO 8859-1, as browsers do.
    """
    return next(filter(None, map(_name, values)), None)


def _name(value: str) -> str | None:
    first, _, _ = value.partition(";")
    # Some leave the type out.
    found: dict[str, str] = {}
    for name, text in _parameters(f";{value}" if "=" in first else value):
        found.setdefault(name, text)
    return (
        _extended(found.get("filename*", ""))
        or _continued(found)
        or _plain(found.get("filename", ""))
        or None
    )


def _parameters(value: str) -> Iterator[tuple[str, str]]:
    for match in PARAMETER.finditer(value[value.index(";") :] if ";" in value else ""):
        name, quoted, token = match.groups()
        yield name.lower(), token.strip().strip('"') if quoted is None else ESCAPED.sub(r"\1", quoted)


def _plain(text: str) -> str:
    with suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")
    if "=?" not in text:
        return text
    return WORD.sub(_word, BETWEEN_WORDS.sub(r"\1", text))


def _word(match: re.Match[str]) -> str:
    """What an encoded word says; the word itself if it cannot be read."""
    charset, form, text = match.groups()
    try:
        if form in "bB":
            data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        else:
            data = binascii.a2b_qp(text, header=True)
    except (ValueError, UnicodeError):
        return match[0]
    return _decoded(data, charset) or match[0]


def _extended(value: str) -> str | None:
    """A value as ``UTF-8''na%C3%AFve.png`` (RFC 8187); None if it is none or cannot be decoded."""
    charset, _, rest = value.partition("'")
    _, quote, text = rest.partition("'")
    return _decoded(unquote_to_bytes(text), charset) if quote else None


def _continued(found: dict[str, str]) -> str | None:
    """The parts ``filename*0``, ``filename*1*`` and so on, joined (RFC 2231, 3)."""
    parts = {
        int(match[1]): (match[2], text)
        for name, text in found.items()
        if (match := CONTINUED.fullmatch(name))
    }
    charset, whole = "utf-8", b""
    for number in range(len(parts)):
        if number not in parts:
            break
        coded, text = parts[number]
        if number == 0 and coded:
            charset, _, rest = text.partition("'")
            text = rest.partition("'")[2]
        whole += unquote_to_bytes(text) if coded else text.encode(errors="replace")
    return _decoded(whole, charset) if whole else None


def _decoded(data: bytes, charset: str) -> str | None:
    if not CHARSETS.fullmatch(charset):
        return None
    try:
        return data.decode(charset)
    except (LookupError, UnicodeError):
        return None
