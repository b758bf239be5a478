"""A body on its way to a file: counted, decoded where that was asked, and checked."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from nearfar.download.fetch.base import Trouble
from nearfar.download.fetch.headers import Hashes, named_digests
from nearfar.download.model import Checksum, Reason

__all__ = ["ACCEPTED", "Content", "ContentError", "Decoder", "OtherBytesError", "coding", "codings"]


ACCEPTED = "gzip, deflate"
"""What is asked for. Python undoes these two itself, and tells how much it made before it makes more."""
CODINGS = frozenset(
    {"aes128gcm", "br", "compress", "dcb", "dcz", "deflate", "exi", "gzip", "pack200-gzip", "zstd"}
)
"""All that there are (the registry of RFC 9110, 8.4.1). Another word is a mistake: some servers name a
character set there."""
DENSEST = 100
"""Times what was sent that may come of it. Text and logs come to 3 to 20; zlib itself can do 1,032."""
FREE = 1024 * 1024
"""Bytes that may come of any body, however short."""
PIECE = 256 * 1024
"""Bytes made between two looks at the limit."""

GZIP, ZLIB, RAW = 31, 15, -15
"""zlib's names for its forms."""


class ContentError(Exception):
    """A body of which there will be no file: it cannot be decoded, or is too much."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def coding(field: str | None) -> str | None:
    """The coding that a Content-Encoding field names; None for none, or for words that name no coding.

    Raises `ContentError` for one that cannot be undone here, which was not asked for. Several on one another
    are such: nobody sends them but to hide how much will come of them.
    """
    codes = codings(field)
    if not codes:
        return None
    if len(codes) > 1 or codes[0] not in ("gzip", "deflate"):
        raise ContentError(
            Reason.REFUSED, f"a content coding that was not asked for: {', '.join(codes)[:40]}"
        )
    return codes[0]


def codings(field: str | None) -> list[str]:
    """The codings that a Content-Encoding field names, in lower case."""
    words = [word.strip().lower().removeprefix("x-") for word in (field or "").split(",")]
    return [word for word in words if word.partition(";")[0].strip() in CODINGS]


class Decoder:
    """Decodes one body, fed in order. Several gzip members in a row are one body (RFC 1952, 2.2)."""

    def __init__(self, name: str) -> None:
        self._gzip = name == "gzip"
        self._zlib: Any = None
        self._members = 0
        self._came = 0
        self._made = 0

    @property
    def complete(self) -> bool:
        """True if what was fed may be all. No byte at all is an empty body."""
        return self._zlib is None

    def feed(self, data: bytes) -> bytes:
        """What comes of the next bytes: at most about 1,032 times as many. Raises `ContentError`."""
        self._came += len(data)
        parts: list[bytes] = []
        try:
            while data or (parts and len(parts[-1]) == PIECE):
                data = self._step(data, parts)
        except zlib.error as error:
            raise ContentError(Reason.CHECKSUM, f"the content cannot be decoded: {error}") from None
        return b"".join(parts)

    def _step(self, data: bytes, parts: list[bytes]) -> bytes:
        """Decode one piece; the rest of `data`."""
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
        # "deflate" means zlib's form (RFC 9110, 8.4.1.2); some send the bare one.
        return ZLIB if first & 0x0F == 8 and first >> 4 <= 7 else RAW


OVERLAP = 512
"""Bytes asked for again, at most, where a transfer goes on: they show whether the server kept its word."""
SHARE = 8
"""The part of what an attempt brought, at most, that the next one asks for again: an eighth."""


class OtherBytesError(ContentError):
    """What came again is not what came before: the part belongs elsewhere, or to another file."""

    def __init__(self) -> None:
        super().__init__(Reason.TRUNCATED, "the part that was sent does not continue what came before")


class Content:
    """Takes the bytes in order, those of later parts as well; pure."""

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
        """`fields` may name digests of the body as it is sent; `own` is what the file must have.

        `code`: a content coding to undo. `most`: bytes that the file may have. `digest`: count SHA-256 even
        if nothing is named.
        """
        self.came = 0
        """Bytes as they were sent; ranges and lengths speak of these."""
        self.size = 0
        """Bytes of the file."""
        self.total = total
        """Bytes of the whole body as it is sent, once that is known."""
        self.joined = False
        """It came in several parts."""
        self._tail = b""
        self._since = 0
        self._again = b""
        self._most = most
        named = named_digests(fields)
        self.coded = code is not None
        """It is decoded on its way."""
        self._decoder = Decoder(code) if code else None
        self._sent = Hashes(named) if code and named else None
        expected = (*((own,) if own else ()), *(() if code else named)) if own or named else ()
        self._saved = Hashes(expected) if digest or expected else None

    @property
    def sha256(self) -> str | None:
        """Of the file; None if it was not to be counted."""
        return None if self._saved is None else self._saved.sha256

    def take(self, data: bytes) -> bytes:
        """The next bytes as sent; returns what they add to the file. Raises `ContentError`: there is none."""
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
        """Where the next part should begin: a little before the end of what came."""
        gained = self.came - self._since
        self._since = self.came
        self._tail = self._tail[len(self._tail) - min(len(self._tail), gained // SHARE) :]
        return self.came - len(self._tail)

    def rewind(self, start: int) -> bool:
        """The next bytes are those from `start` on; False if they cannot be joined to what came.

        Where they overlap it, `take` compares them, and raises `OtherBytesError`.
        """
        again = self.came - start
        if not 0 <= again <= len(self._tail):
            return False
        self._again = self._tail[len(self._tail) - again :]
        self.joined = True
        return True

    def _compare(self, data: bytes) -> bytes:
        """What of `data` is new."""
        size = min(len(data), len(self._again))
        if data[:size] != self._again[:size]:
            raise OtherBytesError
        self._again = self._again[size:]
        return data[size:]

    def fault(self) -> Trouble | None:
        """What is wrong, if all that was taken is the whole body."""
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
    """Why there is no file that has more than `most` bytes."""
    return Reason.TOO_LARGE, f"more than the {most:,} bytes allowed (--max-size)"
