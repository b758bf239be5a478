"""Which jobs a run has met before: a set of digests in a few bytes each."""

from __future__ import annotations

import hashlib

from nearfar.download.model import Job
from nearfar.download.urls import resource

DIGEST = 16
_PREFIX = 2
_REST = DIGEST - _PREFIX


def digest_of(job: Job) -> bytes:
    """What makes two lines of input the same job: the resource that the URL names, name and checksum."""
    said = (resource(job.url), job.name, job.checksum and (job.checksum.algorithm, job.checksum.digest))
    return hashlib.blake2b(repr(said).encode(), digest_size=DIGEST).digest()


class Seen:
    """A set of 16-byte digests.

    A million `bytes` objects in a `set` take some 80 MiB; packed side by side in 65,536 buckets they take
    20, and a search through a bucket (15 entries a million) is one `bytes.find`.
    """

    def __init__(self) -> None:
        self._buckets: dict[bytes, bytearray] = {}

    def add(self, digest: bytes) -> bool:
        """Add `digest`; False if it was there."""
        prefix, rest = digest[:_PREFIX], digest[_PREFIX:]
        bucket = self._buckets.setdefault(prefix, bytearray())
        at = bucket.find(rest)
        while at % _REST and at != -1:
            at = bucket.find(rest, at + 1)
        if at != -1:
            return False
        bucket += rest
        return True
