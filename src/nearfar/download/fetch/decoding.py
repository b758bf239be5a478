"""Undoing a content coding, where that was asked for: piece by piece, and never more than makes sense."""

from __future__ import annotations

import zlib
from typing import Any

from nearfar.download.model import Reason

__all__ = ["ACCEPTED", "ContentError", "Decoder", "coding", "codings"]

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
