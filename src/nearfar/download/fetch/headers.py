"""Reading the header fields that a download depends on. Pure; what cannot be read counts as not sent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

__all__ = [
    "Answer",
    "ContentRange",
    "content_range",
    "contradiction",
    "is_strong",
    "length",
    "media_type",
    "parse_head",
    "retry_after",
    "suggested_name",
]

FIELDS = {
    name.encode(): name
    for name in (
        "content-disposition",
        "content-encoding",
        "content-length",
        "content-md5",
        "content-range",
        "content-type",
        "digest",
        "etag",
        "last-modified",
        "location",
        "repr-digest",
        "retry-after",
        "transfer-encoding",
    )
}
"""The fields that matter here, by what stands before their colon; the others are not read."""
UNCOUNTABLE = 2**63 - 1
STATUS = "HTTP/"
SHORT = 256
"""Bytes of a line up to which what it says is remembered, and of a status line that are read."""
RANGE = re.compile(r"bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.IGNORECASE)
STRONG_ETAG = re.compile(r'"[!#-~\x80-\xff]*"')
"""It is sent back, so there is nothing in it that no tag may have (RFC 9110, 8.8.3)."""
PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))')


class Answer(NamedTuple):
    """The head of an HTTP answer."""

    status: int
    phrase: str
    fields: dict[str, str]
    """Those of `FIELDS`, by name in lower case; one sent several times is joined by commas."""


class ContentRange(NamedTuple):
    """Which bytes of the whole a 206 brings: from `start` to `end`, both included."""

    start: int
    end: int
    total: int | None


def parse_head(lines: Sequence[bytes]) -> Answer:
    """The last head in `lines`, raw lines as they came: interim answers and a proxy's may stand before it."""
    first, fields = b"", dict[str, str]()
    for line in lines:
        name, value = _short_field(line) if len(line) < SHORT else _field(line)
        if name is None:
            continue
        if name == STATUS:
            first, fields = line, {}
        else:
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
    status, phrase = _status(first[:SHORT])
    return Answer(status, phrase, fields)


def _field(line: bytes) -> tuple[str | None, str]:
    """Name and value, if the line is one of `FIELDS`; `STATUS` for one that begins a head."""
    found, _, rest = line.partition(b":")
    name = FIELDS.get(found.lower())
    if name is None:
        return STATUS if line.startswith(b"HTTP/") else None, ""
    return name, rest.strip().decode("latin-1")


_short_field = lru_cache(maxsize=512)(_field)
"""Most lines are those of the answer before."""


@lru_cache(maxsize=64)
def _status(line: bytes) -> tuple[int, str]:
    _, _, status = line.strip().decode("latin-1").partition(" ")
    code, _, phrase = status.partition(" ")
    return int(code) if code.isdecimal() else 0, phrase


def length(answer: Answer) -> int | None:
    """The body's announced length in bytes; None where a transfer coding makes it void (RFC 9112, 6.3).

    libcurl passes over a number that it cannot count to; here it stays one that no limit allows.
    """
    value = answer.fields.get("content-length", "")
    if not value.isdecimal() or "transfer-encoding" in answer.fields:
        return None
    return int(value) if len(value) < 20 else UNCOUNTABLE


def contradiction(answer: Answer) -> str | None:
    """Why nobody can say where the body ends, or what it is; None if all is well (RFC 9112, 6.3)."""
    lengths = answer.fields.get("content-length", "")
    if "," in lengths and len(set(lengths.split(", "))) > 1:
        return "several lengths were announced"
    code = answer.fields.get("transfer-encoding")
    if code is not None and code.strip().lower() not in ("chunked", "identity"):
        # Some versions of libcurl would undo it.
        return "a transfer coding that was not asked for"
    return None


@lru_cache(maxsize=256)
def media_type(value: str | None) -> str | None:
    """``image/png`` of ``Image/PNG; charset=x``."""
    kind = (value or "").partition(";")[0].strip().lower()
    return kind or None


def is_strong(etag: str | None) -> bool:
    """True if equal tags promise equal bytes (RFC 9110, 8.8.1)."""
    return etag is not None and STRONG_ETAG.fullmatch(etag) is not None


def content_range(value: str | None) -> ContentRange | None:
    match = RANGE.fullmatch((value or "").strip())
    if match is None:
        return None
    start, end = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if end < start or (total is not None and end >= total):
        return None
    return ContentRange(start, end, total)


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait, from either form of Retry-After; `now` in seconds since the epoch."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, when.timestamp() - now)


def suggested_name(value: str | None) -> str | None:
    """The file name of a Content-Disposition field, ``filename*`` before ``filename`` (RFC 6266, 4.3).

    Decoded, not made safe. Plain names are read as UTF-8 if they are, else as ISO 8859-1, as browsers do.
    """
    if value is None:
        return None
    found: dict[str, str] = {}
    for name, text in _parameters(value):
        found.setdefault(name, text)
    extended = _extended(found.get("filename*", ""))
    if extended:
        return extended
    plain = found.get("filename", "")
    try:
        return plain.encode("latin-1").decode("utf-8") or None
    except UnicodeError:
        return plain or None


def _parameters(value: str) -> Iterator[tuple[str, str]]:
    for match in PARAMETER.finditer(";" + value.partition(";")[2]):
        name, quoted, token = match.groups()
        yield name.lower(), token.strip() if quoted is None else re.sub(r"\\(.)", r"\1", quoted)


def _extended(value: str) -> str | None:
    """A value as ``UTF-8''na%C3%AFve.png`` (RFC 8187); None if it is none or cannot be decoded."""
    charset, _, rest = value.partition("'")
    _, quote, text = rest.partition("'")
    if not quote or charset.lower() not in ("utf-8", "iso-8859-1"):
        return None
    try:
        return unquote_to_bytes(text).decode(charset)
    except UnicodeError:
        return None
