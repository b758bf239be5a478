"""Reading the header fields that a download depends on. Pure; what cannot be read counts as not sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

__all__ = [
    "DIGESTS",
    "Answer",
    "ContentRange",
    "content_range",
    "contradiction",
    "http_date",
    "is_strong",
    "length",
    "media_type",
    "parse_head",
    "retry_after",
    "unsatisfied",
    "validator",
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
        "date",
        "digest",
        "etag",
        "last-modified",
        "location",
        "repr-digest",
        "retry-after",
        "set-cookie",
        "transfer-encoding",
    )
}
"""The fields that matter here, by what stands before their colon; the others are not read."""
DIGESTS = ("repr-digest", "digest", "content-md5")
UNCOUNTABLE = 2**63 - 1
STATUS = "HTTP/"
SHORT = 256
"""Bytes of a line up to which what it says is remembered, and of a status line that are read."""
LONGEST = 1024
"""Characters of a tag, a date or a media type; a longer one counts as not sent."""
RANGE = re.compile(r"bytes\s+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.IGNORECASE)
UNSATISFIED = re.compile(r"bytes\s+\*/([0-9]{1,19})", re.IGNORECASE)
STRONG_ETAG = re.compile(r'"[!#-~\x80-\xff]*"')
"""It is sent back, so there is nothing in it that no tag may have (RFC 9110, 8.8.3)."""
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DATES = (
    re.compile(
        r"(?:[a-z]{3,9},? )?(?P<day>[0-9]{1,2})[ -](?P<month>[a-z]{3})[ -](?P<year>[0-9]{4}|[0-9]{2})"
        r" (?P<time>[0-9]{1,2}:[0-9]{2}:[0-9]{2})(?: (?:GMT|UTC|Z|[+-]0000))?",
        re.IGNORECASE,
    ),
    re.compile(
        r"[a-z]{3} (?P<month>[a-z]{3}) (?P<day>[ 0-9]?[0-9]) (?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})"
        r" (?P<year>[0-9]{4})",
        re.IGNORECASE,
    ),
)
"""The forms of a date (RFC 9110, 5.6.7), the first two of them in one."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CERTAIN = 1.0
"""Seconds by which a file must be older than the answer for its date to be a strong validator."""


class Answer(NamedTuple):
    """The head of an HTTP answer."""

    status: int
    phrase: str
    fields: dict[str, str]
    """Those of `FIELDS`, by name in lower case; one sent several times as it came first."""
    more: tuple[tuple[str, str], ...] = ()
    """Those that were sent again."""

    def every(self, name: str) -> list[str]:
        """All values of one field, in the order they came."""
        first = self.fields.get(name)
        return [] if first is None else [first, *(value for other, value in self.more if other == name)]

    def joined(self, name: str) -> str | None:
        """The value of a field that is a list (RFC 9110, 5.3); None if it was not sent."""
        if not self.more or name not in self.fields:
            return self.fields.get(name)
        return ", ".join(self.every(name))

    def single(self, name: str) -> str | None:
        """The value of a field that is none; None if it was not sent, or with several values."""
        value = self.fields.get(name)
        return None if self.more and len(set(self.every(name))) > 1 else value

    def brief(self, name: str) -> str | None:
        """`single`, unless it is longer than anything that makes sense."""
        value = self.single(name)
        return value if value is None or len(value) <= LONGEST else None


class ContentRange(NamedTuple):
    """Which bytes of the whole a 206 brings: from `start` to `end`, both included."""

    start: int
    end: int
    total: int | None

    @property
    def size(self) -> int:
        return self.end - self.start + 1

    @property
    def whole(self) -> bool:
        """It brings all bytes of the file."""
        return self.start == 0 and self.total == self.size


def parse_head(lines: Sequence[bytes]) -> Answer:
    """The last head in `lines`, raw lines as they came: interim answers and a proxy's may stand before it."""
    first, fields, last = b"", dict[str, str](), ""
    more: list[tuple[str, str]] = []
    for line in lines:
        name, value = _short_field(line) if len(line) < SHORT else _field(line)
        if name is None:
            if line[:1] in (b" ", b"\t") and last and line.strip():
                _unfold(fields, more, last, line.strip().decode("latin-1"))
            else:
                last = ""
            continue
        last = name
        if name == STATUS:
            first, fields, last = line, {}, ""
            more.clear()
        elif name in fields:
            more.append((name, value))
        else:
            fields[name] = value
    status, phrase = _status(first[:SHORT])
    return Answer(status, phrase, fields, tuple(more))


def _unfold(fields: dict[str, str], more: list[tuple[str, str]], name: str, rest: str) -> None:
    """Append `rest`, a line that goes on with the last field (obsolete, but some servers send it)."""
    if more and more[-1][0] == name:
        more[-1] = (name, f"{more[-1][1]} {rest}")
    else:
        fields[name] = f"{fields[name]} {rest}"


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
    value = answer.single("content-length") or ""
    if not value.isdecimal() or "transfer-encoding" in answer.fields:
        return None
    return int(value) if len(value) < 20 else UNCOUNTABLE


def contradiction(answer: Answer) -> str | None:
    """Why nobody can say where the body ends, or what it is; None if all is well (RFC 9112, 6.3)."""
    lengths = (answer.joined("content-length") if answer.more else answer.fields.get("content-length")) or ""
    if "," in lengths and len({each.strip() for each in lengths.split(",")}) > 1:
        return "several lengths were announced"
    code = answer.joined("transfer-encoding") if "transfer-encoding" in answer.fields else None
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
    """What a Content-Range of a 206 says; None if that makes no sense."""
    match = RANGE.fullmatch((value or "").strip())
    if match is None:
        return None
    start, end = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if end < start or (total is not None and end >= total):
        return None
    return ContentRange(start, end, total)


def unsatisfied(value: str | None) -> int | None:
    """The length of the whole that a Content-Range of a 416 tells."""
    match = UNSATISFIED.fullmatch((value or "").strip())
    return None if match is None else int(match[1])


@lru_cache(maxsize=256)
def http_date(value: str | None) -> float | None:
    """Seconds since the epoch, of any of the three forms of a date; None for anything else."""
    text = (value or "").strip()
    match = next(filter(None, (form.fullmatch(text) for form in DATES)), None)
    if match is None or match["month"].lower() not in MONTHS:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        year += 1900 if year >= 70 else 2000
    try:
        hour, minute, second = map(int, match["time"].split(":"))
        month = MONTHS.index(match["month"].lower()) + 1
        # A leap second is counted as the one before it.
        when = datetime(year, month, int(match["day"]), hour, minute, min(second, 59), tzinfo=UTC)
        return (when - EPOCH).total_seconds()
    except (ValueError, OverflowError):
        return None


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait, from either form of Retry-After; `now` in seconds since the epoch."""
    if value is not None and re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    when = http_date(value)
    return None if when is None else max(0.0, when - now)


def validator(answer: Answer) -> str | None:
    """What may stand in an If-Range: a strong entity tag, or else a date that is strong; None if neither.

    A date only where no tag came (RFC 9110, 13.1.5), and where the second that it names was over when the
    server answered, by its own clock (8.8.2.2).
    """
    etag = answer.brief("etag")
    if etag is not None or "etag" in answer.fields:
        return etag if is_strong(etag) else None
    modified, date = http_date(answer.brief("last-modified")), http_date(answer.brief("date"))
    if modified is None or date is None or date - modified < CERTAIN:
        return None
    return answer.fields["last-modified"]
