"""The data types of a download: a job, a server's response, its ending, and failures.

They are named tuples, since each file needs several: these are the cheapest to create, pickle and encode.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
from enum import StrEnum
from typing import NamedTuple

from nearfar.base_errors import NearfarError


class Reason(StrEnum):
    """Why a URL failed: one of a small fixed set, for counting and for scripts."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    HTTP_4XX = "http-4xx"
    HTTP_5XX = "http-5xx"
    TRUNCATED = "truncated"
    TOO_LARGE = "too-large"
    CHECKSUM = "checksum"
    DISK = "disk"
    REJECTED = "rejected"
    """We rejected it, not the server: a scheme, a redirect, a type, a name, a response without a body."""
    WORKER = "worker"
    """Each pool worker that was given the job died or failed."""


CONTINUABLE = frozenset(set(Reason) - {Reason.TOO_LARGE, Reason.CHECKSUM, Reason.DISK, Reason.REJECTED})
"""Reasons after which the next command may continue a file where its bytes ended."""


class Ending(StrEnum):
    """How a URL ended; every URL ends in exactly one of these."""

    SAVED = "saved"
    ALREADY = "already there"
    FAILED = "failed"


class Checksum(NamedTuple):
    """A digest that the content must have: `algorithm` by hashlib's name, `digest` in lower-case hex."""

    algorithm: str
    digest: str


class Job(NamedTuple):
    """One line of input: a URL, and the properties of the file that its author gave."""

    url: str
    name: str | None = None
    """The name to save under, below the output directory; None lets the store choose."""
    checksum: Checksum | None = None


class Head(NamedTuple):
    """What a server sent before the body. It is recorded, and not trusted."""

    url: str
    """The final URL, after redirects."""
    status: int
    type: str | None = None
    length: int | None = None
    """Of the whole file, in bytes; None if not announced."""
    etag: str | None = None
    modified: str | None = None
    """The Last-Modified field as sent."""
    suggested: str | None = None
    """The file name of a Content-Disposition field as sent, decoded, not yet made safe."""
    validator: str | None = None
    """For If-Range: a strong entity tag, or a strong date as sent. None if another transfer must not continue
    the file."""


class Body(NamedTuple):
    """What was measured while a body was received."""

    size: int
    """Bytes."""
    sha256: str | None
    """Lower-case hex; None: the consumer computes it, since nothing in between could change the data."""
    attempts: int = 1
    """Attempts made; following redirects is part of one."""
    checks: str | None = None
    """Digests to check where the file is saved, since the transfer continued a partial file and did not see
    its beginning: ``sha256=9f86... md5=...``."""


class Partial(NamedTuple):
    """The beginning of a file, durable in a store since an earlier transfer, for another one to continue."""

    file: str
    """The store's name for it."""
    store: str
    """The id of the store."""
    size: int
    """Bytes."""
    length: int | None
    """Bytes of the whole file; None if it was not announced."""
    validator: str
    """As `Head.validator`."""
    source: str
    """Identifies the final URL that sent the validator, see `source_of`."""
    first: bytes
    """The first bytes, from which the file's type can be seen."""
    last: bytes
    """The last bytes, to be compared with what is sent again."""

    def comes_from(self, url: str) -> bool:
        """Whether `url` sent the bytes. A validator says nothing about the file at another URL."""
        return source_of(url, self.source[:_SALT]) == self.source

    def told_of(self, url: str) -> str:
        """For a message: `url`, which must be redacted, and how much of its file there is."""
        of = "" if self.length is None else f" of {self.length:,}"
        return f"{url} after {self.size:,}{of} bytes"

    @property
    def etag(self) -> str | None:
        """The validator, if it is an entity tag."""
        return self.validator if self.validator.startswith('"') else None

    @property
    def modified(self) -> str | None:
        """The validator, if it is a date."""
        return None if self.validator.startswith('"') else self.validator


_SALT = 16


def source_of(url: str, salt: str) -> str:
    """A salted hash of `url`: it can be compared, and shows no secret of the URL. `salt`: 16 characters."""
    said = url.encode(errors="surrogateescape")
    return salt + hashlib.blake2b(said, digest_size=16, key=salt.encode()).hexdigest()


class LargeFile(NamedTuple):
    """Progress of one large file."""

    name: str
    came: int
    """Bytes received."""
    length: int | None
    """Bytes announced; None if the server did not say."""


class Underway(NamedTuple):
    """Progress of what has no ending yet."""

    size: int = 0
    """Bytes received."""
    files: float = 0.0
    """The progress in whole files, where lengths are announced."""
    waits_for: str = ""
    """What is waited for: ``host`` (a server), ``consumer``, ``producer``, ``worker``; empty if nothing."""
    large: tuple[LargeFile, ...] = ()
    """Some of the large files among them (`watched.underway`)."""


class HostNow(NamedTuple):
    """A host at this moment."""

    host: str
    active: int
    """Transfers that run."""
    waiting: int
    """Transfers that wait for the host."""
    parked: float
    """Seconds for which nothing is started there, because it deferred requests."""


class FileNow(NamedTuple):
    """A file that is being received."""

    name: str
    """Its URL without secrets."""
    size: int | None
    """Announced bytes."""
    came: int
    """Received bytes."""


class Report(NamedTuple):
    """What is under way, for a dashboard."""

    hosts: tuple[HostNow, ...] = ()
    files: tuple[FileNow, ...] = ()


class Failure(NamedTuple):
    """Why a URL failed: the class, and a message for a person (without secrets, on one line)."""

    reason: Reason
    detail: str


class StreamLost(NamedTuple):
    """A file must be fetched again: it was not saved, and that says nothing about it."""

    joined: bool = False
    """It was continued, and its parts do not fit together; otherwise its consumer has ended, or does not have
    its beginning."""

    @property
    def why(self) -> str:
        """The same for a person."""
        return "continued, and its parts do not fit together" if self.joined else "lost with its consumer"


class Saved(NamedTuple):
    """A row of the manifest."""

    url: str
    final_url: str
    name: str
    size: int
    sha256: str
    type: str | None
    etag: str | None
    time: float
    """When it was saved: seconds since the epoch."""
    attempts: int
    modified: str | None = None
    """The Last-Modified field as sent."""


_SENTENCES = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "not permitted",
    errno.EEXIST: "a file is in the way",
    errno.ENOTDIR: "a file is in the way",
    errno.ENOENT: "a directory or the temporary file is gone",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.EMFILE: "too many open files in this process",
    errno.ENFILE: "too many open files on this machine",
    errno.EXDEV: "the directory is on another file system than it was",
    errno.EFBIG: "the file is too large for this file system",
    errno.EIO: "the disk fails (input/output error)",
}


class StoreError(NearfarError):
    """A file that could not be saved; nothing of it is left under its final name.

    `reason` is the class, `detail` a message for a person, on one line and without secrets.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    @property
    def failure(self) -> Failure:
        """The same as a value, for the account."""
        return Failure(self.reason, self.detail)


def lacks_room(error: OSError | sqlite3.Error | StoreError) -> bool:
    """Whether more disk space may help: SQLite has one error for an exceeded quota and a broken disk."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the other bits identify the call that failed
        return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk(error: OSError | sqlite3.Error | StoreError, what: str) -> StoreError:
    """`error`, raised for `what` (a name), as a `StoreError` of class disk, unless it is one already."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, sqlite3.Error):
        return StoreError(Reason.DISK, f"{what}: {error}")
    number = error.errno or 0
    return StoreError(Reason.DISK, f"{what}: {_SENTENCES.get(number) or os.strerror(number)}")
