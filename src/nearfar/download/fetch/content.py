"""A body on its way to a file: counted as it is sent, decoded where that was asked, counted and hashed."""

from __future__ import annotations

from collections.abc import Mapping

from nearfar.download.fetch.decoding import ContentError, Decoder
from nearfar.download.fetch.digests import Hashes, named_digests
from nearfar.download.fetch.trouble import Trouble
from nearfar.download.model import Checksum, Reason

__all__ = ["Content", "OtherBytesError"]

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
