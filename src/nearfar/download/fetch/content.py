"""Counts, optionally decodes, and checks a body on its way to a file."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Self

from nearfar.download.fetch.base import Trouble
from nearfar.download.fetch.headers import Hashes, named_digests
from nearfar.download.model import Checksum, Partial, Reason

ACCEPTED = "gzip, deflate"
"""The codings requested. Python's zlib decodes both, and lets the caller limit the output."""
CODINGS = frozenset(
    {"aes128gcm", "br", "compress", "dcb", "dcz", "deflate", "exi", "gzip", "pack200-gzip", "zstd"}
)
"""All registered codings (RFC 9110, 8.4.1). Some servers send another word, such as a character set."""
DENSEST = 100
"""Highest allowed ratio of decoded to received bytes. Text and logs reach 3 to 20; zlib's limit is 1,032."""
FREE = 1024 * 1024
"""Decoded bytes that are allowed for any body, however short."""
PIECE = 256 * 1024
"""Bytes decoded between two checks of the limit."""

GZIP, ZLIB, RAW = 31, 15, -15
"""zlib's window parameter for each format."""


class ContentError(Exception):
    """A body that cannot be saved: it cannot be decoded, or is too large."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def coding(field: str | None) -> str | None:
    """The coding that a Content-Encoding field names; None for none, or for an unregistered word.

    Raises `ContentError` for a coding that was not requested and cannot be decoded here. Several nested
    codings are refused too: their only use is to hide the decoded size.
    """
    codes = codings(field)
    if not codes:
        return None
    if len(codes) > 1 or codes[0] not in ("gzip", "deflate"):
        raise ContentError(
            Reason.REJECTED, f"a content coding that was not asked for: {', '.join(codes)[:40]}"
        )
    return codes[0]


def codings(field: str | None) -> list[str]:
    """The codings that a Content-Encoding field names, in lower case."""
    words = [word.strip().lower().removeprefix("x-") for word in (field or "").split(",")]
    return [word for word in words if word.partition(";")[0].strip() in CODINGS]


class Decoder:
    """Decodes one body, fed in order. Consecutive gzip members are one body (RFC 1952, 2.2)."""

    def __init__(self, name: str) -> None:
        self._gzip = name == "gzip"
        self._zlib: Any = None
        self._members = 0
        self._came = 0
        self._made = 0

    @property
    def complete(self) -> bool:
        """True if the bytes so far may be the whole body. No byte at all is an empty body."""
        return self._zlib is None

    def feed(self, data: bytes) -> bytes:
        """The decoded bytes: at most about 1,032 times as many as fed. Raises `ContentError`."""
        self._came += len(data)
        parts: list[bytes] = []
        try:
            while data or (parts and len(parts[-1]) == PIECE):
                data = self._step(data, parts)
        except zlib.error as error:
            raise ContentError(Reason.CHECKSUM, f"the content cannot be decoded: {error}") from None
        return b"".join(parts)

    def _step(self, data: bytes, parts: list[bytes]) -> bytes:
        """Decode one piece; return the rest of `data`."""
        if self._zlib is None:
            data = data.lstrip(b"\0") if self._members else data  # padding
            if not data:
                parts.append(b"")
                return data
            self._zlib = zlib.decompressobj(self._form(data[0]))
        parts.append(self._zlib.decompress(data, PIECE))
        self._made += len(parts[-1])
        if self._made > FREE + DENSEST * self._came:
            raise ContentError(Reason.TOO_LARGE, f"{DENSEST} times larger when decoded than as it was sent")
        rest: bytes = self._zlib.unconsumed_tail
        if self._zlib.eof:
            rest = self._zlib.unused_data
            self._zlib = None
            self._members += 1
        return rest

    def _form(self, first: int) -> int:
        if self._gzip:
            return GZIP
        if self._members:
            raise ContentError(Reason.CHECKSUM, "the content goes on behind its end")
        # "deflate" means the zlib format (RFC 9110, 8.4.1.2); some servers send raw deflate.
        return ZLIB if first & 0x0F == 8 and first >> 4 <= 7 else RAW


OVERLAP = 512
"""Bytes requested again, at most, when a transfer is resumed: they verify that the file is the same."""
SHARE = 8
"""An attempt requests at most 1/`SHARE` of the previous attempt's bytes again."""


class OtherBytesError(ContentError):
    """The repeated bytes differ from the first ones: the part has another offset, or is of another file."""

    def __init__(self) -> None:
        super().__init__(Reason.TRUNCATED, "the part that was sent does not continue what came before")


class Content:
    """Processes the bytes in order, those of later parts included; pure."""

    def __init__(
        self,
        fields: Mapping[str, str],
        own: Checksum | None,
        code: str | None,
        total: int | None,
        most: int,
        *,
        digest: bool = True,
    ) -> None:
        """`fields` may name digests of the body as sent; `own` is the checksum that the file must have.

        `code`: a content coding to decode. `most`: bytes that the file may have. `digest`: compute SHA-256
        even if no digest is named.
        """
        self.came = 0
        """Bytes received as sent; ranges and lengths refer to these."""
        self.size = 0
        """Bytes of the file, after decoding."""
        self.total = total
        """Bytes of the whole body as sent; None until known."""
        self.joined = False
        """The body came in several parts."""
        self._tail = b""
        self._since = 0
        self._again = b""
        self._most = most
        named = named_digests(fields)
        self.coded = code is not None
        """The body is decoded."""
        self._decoder = Decoder(code) if code else None
        self._sent = Hashes(named) if code and named else None
        expected = (*((own,) if own else ()), *(() if code else named)) if own or named else ()
        self._saved = Hashes(expected) if digest or expected else None

    @classmethod
    def after(cls, partial: Partial, most: int) -> Self:
        """The content whose first bytes an earlier transfer has brought. Its digest is unknown here."""
        content = cls({}, None, None, partial.length, most, digest=False)
        content.came = content.size = partial.size
        content._tail = partial.last
        return content

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the file; None if it was not requested, or other bytes came in an earlier transfer."""
        return None if self._saved is None else self._saved.sha256

    def take(self, data: bytes) -> bytes:
        """Process the next bytes as sent; return what they add to the file. Raises `ContentError`."""
        if self._again:
            data = self._compare(data)
        self._tail = data[-OVERLAP:] if len(data) >= OVERLAP else (self._tail + data)[-OVERLAP:]
        self.came = came = self.came + len(data)
        if self.total is not None and came > self.total:
            raise ContentError(Reason.TRUNCATED, f"more than the {self.total} bytes announced came")
        if self._sent is not None:
            self._sent.update(data)
        if self._decoder is not None:
            data = self._decoder.feed(data)
            came = self.size + len(data)
        self.size = came
        if came > self._most:
            raise ContentError(*too_large(self._most))
        if self._saved is not None:
            self._saved.update(data)
        return data

    def go_on(self) -> int:
        """The offset at which the next part should begin: a little before the end of the received bytes."""
        gained = self.came - self._since
        self._since = self.came
        self._tail = self._tail[len(self._tail) - min(len(self._tail), gained // SHARE) :]
        return self.came - len(self._tail)

    def rewind(self, start: int) -> bool:
        """Continue from the offset `start`; False if that does not overlap or continue the received bytes.

        `take` compares the overlap, and raises `OtherBytesError` if it differs.
        """
        again = self.came - start
        if not 0 <= again <= len(self._tail):
            return False
        self._again = self._tail[len(self._tail) - again :]
        self.joined = True
        return True

    def _compare(self, data: bytes) -> bytes:
        """The new bytes in `data`, after the overlap."""
        size = min(len(data), len(self._again))
        if data[:size] != self._again[:size]:
            raise OtherBytesError
        self._again = self._again[size:]
        return data[size:]

    def fault(self) -> Trouble | None:
        """What is wrong, if the bytes taken are the whole body; None if nothing."""
        if self.total is not None and self.came != self.total:
            return Trouble(Reason.TRUNCATED, f"{self.came} of {self.total} bytes came", transient=True)
        if self._decoder is not None and not self._decoder.complete:
            return Trouble(Reason.TRUNCATED, "the coded content ends too early")
        for hashes in (self._saved, self._sent):
            wrong = None if hashes is None else hashes.wrong()
            if wrong is not None:
                return Trouble(Reason.CHECKSUM, f"the content has not the {wrong.algorithm} {wrong.digest}")
        return None


def too_large(most: int) -> tuple[Reason, str]:
    """The failure for a file of more than `most` bytes."""
    return Reason.TOO_LARGE, f"more than the {most:,} bytes allowed (--max-size)"
