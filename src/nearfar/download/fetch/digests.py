"""Digests that a server or a job names, and the hashing that checks them while a body passes by."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nearfar.download.model import Checksum

__all__ = ["Hashes", "is_known", "named_digests"]

DIGEST = {"md5": "md5", "sha": "sha1", "sha-256": "sha256", "sha-512": "sha512"}
"""Names in Digest (RFC 3230) and Repr-Digest (RFC 9530), and hashlib's for them; others are ignored."""
FIELDS = frozenset({"repr-digest", "digest", "content-md5"})
MEMBER = re.compile(r"([a-z0-9-]+)\s*=\s*:?([A-Za-z0-9+/]+={0,2}):?", re.IGNORECASE)


def named_digests(fields: Mapping[str, str]) -> tuple[Checksum, ...]:
    """What Repr-Digest, Digest and Content-MD5 say of the bytes as sent.

    Unknown algorithms are ignored, and so is what has not the form or the length of its algorithm's digest.
    Only for an answer with the whole file: Content-MD5 of a part speaks of the part.
    """
    return tuple(_read(fields)) if fields.keys() & FIELDS else ()


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
    """True if hashlib here has `algorithm`, with a digest of one fixed length."""
    try:
        return hashlib.new(algorithm, usedforsecurity=False).digest_size > 0
    except ValueError:
        return False


class Hashes:
    """SHA-256 of all bytes given to `update`, and whatever else `expected` needs."""

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
