"""The header fields that a download depends on: ranges, digests, and the name of a file. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from nearfar.download.model import Checksum
from nearfar.download.patterns import compile_lazily

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
"""The relevant header fields, by name; the others are ignored."""
DIGESTS = ("repr-digest", "digest", "content-md5")
UNCOUNTABLE = 2**63 - 1
STATUS = "HTTP/"
SHORT = 256
"""Bytes of a line up to which its parse is cached, and bytes of a status line that are read."""
LONGEST = 1024
"""Characters of a tag, a date or a media type; a longer value counts as not sent."""
RANGE = compile_lazily(r"bytes\s+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.IGNORECASE)
UNSATISFIED = compile_lazily(r"bytes\s+\*/([0-9]{1,19})", re.IGNORECASE)
STRONG_ETAG = compile_lazily(r'"[!#-~\x80-\xff]*"')
"""The tag is sent back, so it may have only characters that RFC 9110, 8.8.3, allows."""
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DATES = (
    compile_lazily(
        r"(?:[a-z]{3,9},? )?(?P<day>[0-9]{1,2})[ -](?P<month>[a-z]{3})[ -](?P<year>[0-9]{4}|[0-9]{2})"
        r" (?P<time>[0-9]{1,2}:[0-9]{2}:[0-9]{2})(?: (?:GMT|UTC|Z|[+-]0000))?",
        re.IGNORECASE,
    ),
    compile_lazily(
        r"[a-z]{3} (?P<month>[a-z]{3}) (?P<day>[ 0-9]?[0-9]) (?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})"
        r" (?P<year>[0-9]{4})",
        re.IGNORECASE,
    ),
)
"""The formats of a date (RFC 9110, 5.6.7); the first pattern covers two."""
CERTAIN = 1.0
"""Seconds by which a file must be older than the response for its date to be a strong validator."""


class Answer(NamedTuple):
    """The head of an HTTP response."""

    status: int
    phrase: str
    fields: dict[str, str]
    """The fields among `FIELDS`, by name in lower case; of a repeated field, the first value."""
    more: tuple[tuple[str, str], ...] = ()
    """The repeated fields."""

    def every(self, name: str) -> list[str]:
        """All values of one field, in the order received."""
        first = self.fields.get(name)
        return [] if first is None else [first, *(value for other, value in self.more if other == name)]

    def joined(self, name: str) -> str | None:
        """The value of a list field (RFC 9110, 5.3); None if it was not sent."""
        if not self.more or name not in self.fields:
            return self.fields.get(name)
        return ", ".join(self.every(name))

    def single(self, name: str) -> str | None:
        """The value of a field that is no list; None if it was not sent, or sent with several values."""
        value = self.fields.get(name)
        return None if self.more and len(set(self.every(name))) > 1 else value

    def brief(self, name: str) -> str | None:
        """`single`, or None if it is longer than `LONGEST`."""
        value = self.single(name)
        return value if value is None or len(value) <= LONGEST else None


class ContentRange(NamedTuple):
    """Which bytes of the file a 206 holds: from `start` to `end`, both included."""

    start: int
    end: int
    total: int | None

    @property
    def size(self) -> int:
        return self.end - self.start + 1

    @property
    def whole(self) -> bool:
        """It holds all bytes of the file."""
        return self.start == 0 and self.total == self.size


PLAIN = frozenset({"content-length", "content-type", "date", "etag", "last-modified"})


def plain_fields(lines: Sequence[bytes]) -> dict[str, str] | None:
    """The fields of one head with status 200, if none needs special handling and nothing follows it; else
    None."""
    if len(lines) < 2 or lines[-1] != b"\r\n" or len(lines[0]) >= SHORT or _status(lines[0])[0] != 200:
        return None
    fields: dict[str, str] = {}
    for line in lines[1:-1]:
        if len(line) >= SHORT:
            return None
        name, value = _short_field(line)
        if name is not None:
            if name not in PLAIN or name in fields:
                return None
            fields[name] = value
        elif line[:1] in b" \t\r\n":  # continues a field, or ends a head
            return None
    return fields


def parse_head(lines: Sequence[bytes]) -> Answer:
    """The last head in `lines`, raw lines as received.

    Interim responses and a proxy's may precede it, and trailers follow it.
    """
    first, fields, last = b"", dict[str, str](), ""
    more: list[tuple[str, str]] = []
    over = False
    for line in lines:
        name, value = _short_field(line) if len(line) < SHORT else _field(line)
        if over and name != STATUS:
            continue
        if name is None:
            over = not line.strip(b"\r\n")
            if line[:1] in (b" ", b"\t") and last and line.strip():
                _unfold(fields, more, last, line.strip().decode("latin-1"))
            else:
                last = ""
            continue
        last = name
        if name == STATUS:
            first, fields, last, over = line, {}, "", False
            more.clear()
        elif name in fields:
            more.append((name, value))
        else:
            fields[name] = value
    status, phrase = _status(first[:SHORT])
    return Answer(status, phrase, fields, tuple(more))


def _unfold(fields: dict[str, str], more: list[tuple[str, str]], name: str, rest: str) -> None:
    """Append `rest`, a continuation of the last field (obsolete, but some servers send it)."""
    if more and more[-1][0] == name:
        more[-1] = (name, f"{more[-1][1]} {rest}")
    else:
        fields[name] = f"{fields[name]} {rest}"


def _field(line: bytes) -> tuple[str | None, str]:
    """Name and value, if the line is one of `FIELDS`; `STATUS` for a status line."""
    found, _, rest = line.partition(b":")
    name = FIELDS.get(found.lower())
    if name is None:
        return STATUS if line.startswith(b"HTTP/") else None, ""
    return name, rest.strip().decode("latin-1")


_short_field = lru_cache(maxsize=512)(_field)
"""Most lines repeat those of the previous response."""


@lru_cache(maxsize=64)
def _status(line: bytes) -> tuple[int, str]:
    _, _, status = line.strip().decode("latin-1").partition(" ")
    code, _, phrase = status.partition(" ")
    return int(code) if code.isdecimal() else 0, phrase


def length(answer: Answer) -> int | None:
    """The body's announced length in bytes; None where a transfer coding overrides it (RFC 9112, 6.3).

    libcurl ignores a number that is too large for it; here it stays a number above every limit.
    """
    value = answer.single("content-length") or ""
    if not value.isdecimal() or "transfer-encoding" in answer.fields:
        return None
    return int(value) if len(value) < 20 else UNCOUNTABLE


def contradiction(answer: Answer) -> str | None:
    """Why the end or the coding of the body is ambiguous; None if it is not (RFC 9112, 6.3)."""
    lengths = (answer.joined("content-length") if answer.more else answer.fields.get("content-length")) or ""
    if "," in lengths and len({each.strip() for each in lengths.split(",")}) > 1:
        return "several lengths were announced"
    code = answer.joined("transfer-encoding") if "transfer-encoding" in answer.fields else None
    if code is not None and code.strip().lower() not in ("chunked", "identity"):
        # Some versions of libcurl would decode it.
        return "a transfer coding that was not asked for"
    return None


@lru_cache(maxsize=256)
def media_type(value: str | None) -> str | None:
    """``image/png`` of ``Image/PNG; charset=x``."""
    kind = (value or "").partition(";")[0].strip().lower()
    return kind or None


def is_strong(etag: str | None) -> bool:
    """True if equal tags guarantee equal bytes (RFC 9110, 8.8.1)."""
    return etag is not None and STRONG_ETAG.fullmatch(etag) is not None


def content_range(value: str | None) -> ContentRange | None:
    """The value of a 206's Content-Range; None if it is invalid."""
    match = RANGE.fullmatch((value or "").strip())
    if match is None:
        return None
    start, end = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if end < start or (total is not None and end >= total):
        return None
    return ContentRange(start, end, total)


def unsatisfied(value: str | None) -> int | None:
    """The length of the file that the Content-Range of a 416 names."""
    match = UNSATISFIED.fullmatch((value or "").strip())
    return None if match is None else int(match[1])


@lru_cache(maxsize=256)
def http_date(value: str | None) -> float | None:
    """Seconds since the epoch, from any of the three formats of a date; None for anything else."""
    text = (value or "").strip()
    match = next(filter(None, (form.fullmatch(text) for form in DATES)), None)
    if match is None or match["month"].lower() not in MONTHS:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        year += 1900 if year >= 70 else 2000
    from datetime import UTC, datetime  # needed only to resume a transfer, or for Retry-After

    try:
        hour, minute, second = map(int, match["time"].split(":"))
        month = MONTHS.index(match["month"].lower()) + 1
        # A leap second is counted as the second before it.
        when = datetime(year, month, int(match["day"]), hour, minute, min(second, 59), tzinfo=UTC)
        return (when - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait, from either format of Retry-After; `now` in seconds since the epoch."""
    if value is not None and re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    when = http_date(value)
    return None if when is None else max(0.0, when - now)


def validator(answer: Answer) -> str | None:
    """The validator for If-Range: a strong entity tag, or else a strong date; None if neither.

    A date is used only if no tag was sent (RFC 9110, 13.1.5), and if its second was over when the server
    answered, by the server's clock (8.8.2.2).
    """
    etag = answer.brief("etag")
    if etag is not None or "etag" in answer.fields:
        return etag if is_strong(etag) else None
    modified, date = http_date(answer.brief("last-modified")), http_date(answer.brief("date"))
    if modified is None or date is None or date - modified < CERTAIN:
        return None
    return answer.fields["last-modified"]


DIGEST = {"md5": "md5", "sha": "sha1", "sha-256": "sha256", "sha-512": "sha512"}
"""Algorithm names in Digest (RFC 3230) and Repr-Digest (RFC 9530) to hashlib's; others are ignored."""
DIGEST_FIELDS = frozenset({"repr-digest", "digest", "content-md5"})
MEMBER = compile_lazily(r"([a-z0-9-]+)\s*=\s*:?([A-Za-z0-9+/]+={0,2}):?", re.IGNORECASE)


def named_digests(fields: Mapping[str, str]) -> tuple[Checksum, ...]:
    """The digests in Repr-Digest, Digest and Content-MD5, of the bytes as sent.

    Unknown algorithms and malformed digests are ignored. Only valid for a response with the whole file:
    Content-MD5 of a part is that of the part.
    """
    return tuple(_read(fields)) if fields.keys() & DIGEST_FIELDS else ()


def _read(fields: Mapping[str, str]) -> Iterator[Checksum]:
    for field in ("repr-digest", "digest"):
        for member in fields.get(field, "").split(","):
            match = MEMBER.fullmatch(member.strip())
            if match and (algorithm := DIGEST.get(match[1].lower())):
                yield from _decode(algorithm, match[2])
    if "content-md5" in fields:
        yield from _decode("md5", fields["content-md5"])


def _decode(algorithm: str, text: str) -> Iterator[Checksum]:
    try:
        digest = base64.b64decode(text, validate=True)
    except ValueError:
        return
    if len(digest) == hashlib.new(algorithm, usedforsecurity=False).digest_size:
        yield Checksum(algorithm, digest.hex())


def is_known(algorithm: str) -> bool:
    """True if hashlib has `algorithm`, with a digest of one fixed length."""
    try:
        return hashlib.new(algorithm, usedforsecurity=False).digest_size > 0
    except ValueError:
        return False


class Hashes:
    """SHA-256 of all bytes given to `update`, and every other hash that `expected` needs."""

    __slots__ = ("_expected", "_others", "_sha256")

    def __init__(self, expected: Iterable[Checksum] = ()) -> None:
        self._expected = tuple(expected)
        self._sha256 = hashlib.sha256()
        self._others: dict[str, Any] = {}
        for name in {checksum.algorithm for checksum in self._expected} - {"sha256"}:
            self._others[name] = hashlib.new(name, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        if self._others:
            for other in self._others.values():
                other.update(data)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def wrong(self) -> Checksum | None:
        """An expected checksum that the bytes do not have, or None."""
        for checksum in self._expected:
            if self._digest(checksum.algorithm) != checksum.digest.lower():
                return checksum
        return None

    def _digest(self, algorithm: str) -> str:
        return self.sha256 if algorithm == "sha256" else self._others[algorithm].hexdigest()


PARAMETER = compile_lazily(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))', re.DOTALL)
ESCAPED = compile_lazily(r'\\(["\\])')
"""A backslash escapes these. Before any other character it is literal: no server needs to escape that, and
many send a Windows path."""
WORD = compile_lazily(r"=\?([A-Za-z0-9_-]{1,40})(?:\*[A-Za-z-]{0,20})?\?([bBqQ])\?([^?\s]*)\?=")
BETWEEN_WORDS = compile_lazily(r"(\?=)\s+(?==\?)")
CONTINUED = compile_lazily(r"filename\*(0|[1-9][0-9]?)(\*?)")
CHARSETS = compile_lazily(
    r"utf-?8|us-ascii|iso-?8859-?[0-9]{1,2}|windows-?125[0-8]|koi8-[ru]|shift_jis|euc-(jp|kr)|gb(2312|k|18030)|big5",
    re.IGNORECASE,
)
"""The character sets that are supported."""


def suggested_name(values: Iterable[str]) -> str | None:
    """The name in the first of `values` that has one: a server may send the field more than once.

    Priority: ``filename*``, parts of RFC 2231 (``filename*0=``), ``filename`` (RFC 6266, 4.3).
    Encoded words of RFC 2047, which belong to mail, are decoded too. The result is not made safe. Bytes
    outside ASCII are read as UTF-8 if valid, else as ISO 8859-1, as browsers do.
    """
    return next(filter(None, map(_name, values)), None)


def _name(value: str) -> str | None:
    first, _, _ = value.partition(";")
    # Some servers omit the disposition type.
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
    """The decoded text of an encoded word; the word itself if it cannot be decoded."""
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
    """An extended value such as ``UTF-8''na%C3%AFve.png`` (RFC 8187), decoded; None if it is invalid."""
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
