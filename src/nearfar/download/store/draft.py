"""A file being written: a temporary beside its target, until `Store.commit` gives it its name."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from queue import Queue
from threading import Thread
from typing import Any

from nearfar.download.fetch.headers import http_date
from nearfar.download.model import Body, Head, Job, Reason, StoreError, disk, source_of
from nearfar.download.redact import written
from nearfar.download.store.folders import Folders, digest
from nearfar.download.store.manifest import readable
from nearfar.download.store.names import wanted
from nearfar.download.store.owners import Owner
from nearfar.download.store.partials import EVERY, FIRST, LEAST, PartialRow, Partials, Resumption, boot_id

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE_BACK = 32 << 20
CAN_ADVISE = hasattr(os, "posix_fadvise")
"""Whether the kernel can be asked to start writing."""


LARGE = 768 * 1024
"""Bytes of a piece that justify starting a thread; hashing them takes half a millisecond."""
WAITING = 4
"""Pieces that may wait for the thread: if it is slower than the network, the transfer blocks."""


class Digest:
    """SHA-256 of a file while it is written: a second thread hashes large pieces, beside the transfer.

    Use it in one thread; `close` or `hexdigest` ends the second one.
    """

    __slots__ = ("_hash", "_pieces", "_thread")

    def __init__(self, state: Any = None) -> None:
        """`state`: a hash of the bytes so far; None: there are none."""
        self._hash = state or hashlib.sha256()
        self._thread: Thread | None = None
        self._pieces: Queue[bytes | Callable[[str], None] | None]
        """Queue to the thread, if there is one; None ends it."""

    def update(self, data: bytes | memoryview) -> None:
        """Append `data`; it may be a view that is valid only during this call."""
        if self._thread is None and (len(data) < LARGE or not self._start()):
            self._hash.update(data)
        else:
            self._pieces.put(bytes(data))

    def mark(self, on_digest: Callable[[str], None]) -> None:
        """Call `on_digest` with the digest of all bytes so far, from either thread. It must not raise."""
        if self._thread is None:
            on_digest(self._hash.copy().hexdigest())
        else:
            self._pieces.put(on_digest)

    def hexdigest(self) -> str:
        """The digest of all bytes so far, in lower-case hex."""
        if self._thread is not None:
            self.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        """Wait until all is hashed, and end the thread."""
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None

    def _start(self) -> bool:
        """Start the thread; False if that is not possible."""
        self._pieces = Queue(WAITING)
        thread = Thread(target=self._work, name="digest", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        return True

    def _work(self) -> None:
        while (data := self._pieces.get()) is not None:
            if isinstance(data, bytes):
                self._hash.update(data)
            else:
                data(self._hash.copy().hexdigest())


class Draft:
    """Writes the bytes of one file in order, counts and hashes them. Created by `Store.open`.

    A method that raises `StoreError` has discarded the draft. One that is neither committed nor discarded
    keeps a descriptor open until its store is closed.
    """

    __slots__ = (
        *("__weakref__", "_digest", "_due", "_flushed", "_folders", "_latest", "_partials", "_recording"),
        *("_source", "_unsettled", "body", "descriptor", "folder", "head", "job", "key", "label", "parts"),
        *("recorded", "sha256", "size", "synced", "temporary", "tried"),
    )

    def __init__(
        self,
        job: Job,
        head: Head,
        key: bytes,
        folders: Folders,
        owner: Owner,
        unsettled: set[Draft],
        partials: Partials | None = None,
        resumption: Resumption | None = None,
        *,
        latest: float | None = None,
    ) -> None:
        """`key` is the manifest's key of the job's URL; `unsettled` contains the draft until it is committed
        or discarded. Raises `StoreError`.

        `partials`: where the progress of a file is recorded that another transfer may continue.
        `resumption`: an intact partial file to continue, instead of a new one. `latest`: give
        the file the time of its last modification that the server names, unless it is after this one (seconds
        since the epoch).
        """
        self.job = job
        self.head = head
        self.body: Body | None = None
        """The body that `finish` has verified."""
        self.key = key
        self.parts = parts = (
            wanted(job, head) if resumption is None else tuple(resumption.row.name.split("/"))
        )
        """The requested name, as parts of a path."""
        self.label = parts[0] if len(parts) == 1 else "/".join(parts)
        """Its name in messages."""
        self.sha256 = ""
        """Of the finished file, lower-case hex."""
        self.tried: set[str] = set()
        """Folded names that are taken by files that the store did not write."""
        self.size = 0
        """Bytes written so far."""
        self.synced = False
        """All of it is synced to the disk."""
        self.folder = parts[:-1]
        self.recorded: str | None = None
        """Its name among the partial files, if it has a row there."""
        self._folders = folders
        self._latest = latest
        self._partials = partials
        self._unsettled = unsettled
        self._recording = False
        self._source = ""
        self._flushed = 0
        self._due = time.monotonic() + FIRST if partials is not None else 0.0
        if resumption is None:
            self._digest = Digest()
            self._create(owner)
        else:
            self._digest = Digest(resumption.state)
            self._continue(resumption)
        unsettled.add(self)

    def _create(self, owner: Owner) -> None:
        folders = self._folders
        try:
            folder = folders.at(self.folder, create=True) if self.folder else folders.root
            self.temporary: bytes | None = owner.temporary(self.folder)
            self.descriptor: int | None = os.open(self.temporary, _CREATE, 0o666, dir_fd=folder)
        except OSError as error:
            folders.forget()
            raise disk(error, self.label) from error

    def _continue(self, resumption: Resumption) -> None:
        """Append to the partial file of `resumption`, after the bytes of its row."""
        row = resumption.row
        self.temporary = os.fsencode(row.place[1])
        self.descriptor = resumption.descriptor
        self.recorded = row.file
        self.size = self._flushed = row.size
        self._source = row.source
        try:
            os.ftruncate(self.descriptor, row.size)
            os.lseek(self.descriptor, row.size, os.SEEK_SET)
        except OSError as error:
            self.discard()
            raise disk(error, self.label) from error

    @property
    def keeps(self) -> bool:
        """Another transfer can continue the file, if this one ends before it is complete."""
        return self._partials is not None and self.size >= LEAST

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`. Raises `StoreError` (disk); ValueError after `finish` or `discard`."""
        if self.descriptor is None or self.body is not None:
            raise ValueError("this draft takes no more bytes")
        try:
            written = os.write(self.descriptor, data)
            while written < len(data):
                written += os.write(self.descriptor, memoryview(data)[written:])
            self._digest.update(data)
            self.size += len(data)
            if self.size - self._flushed >= _WRITE_BACK:
                self.write_back()
            if self._partials is not None and time.monotonic() >= self._due:
                self._record()
        except OSError as error:
            self.discard()
            raise disk(error, self.label) from error

    def _record(self) -> None:
        """Have the bytes so far made durable and recorded, unless that still goes on for earlier ones."""
        partials, descriptor, size = self._partials, self.descriptor, self.size
        assert partials is not None and descriptor is not None
        self._due = time.monotonic() + EVERY
        if self._recording or size < LEAST:
            return
        try:
            synced = os.dup(descriptor)
        except OSError:
            return
        self._recording = True
        row = self._row(partials.token)
        self._digest.mark(
            lambda sha256: partials.record(synced, row._replace(size=size, sha256=sha256), self._has_recorded)
        )

    def _has_recorded(self, succeeded: bool) -> None:
        if succeeded and self.temporary is not None:
            self.recorded = self._file()
        self._recording = False

    def _row(self, owner: str) -> PartialRow:
        head, partials = self.head, self._partials
        assert partials is not None and head.validator is not None
        self._source = self._source or source_of(head.url, os.urandom(8).hex())
        return PartialRow(
            file=self._file(),
            owner=owner,
            key=self.key,
            named=self.job.name is not None,
            name=self.label,
            url=written(self.job.url),
            final_url=written(head.url),
            type=None if head.type is None else readable(head.type),
            etag=None if head.etag is None else readable(head.etag),
            modified=None if head.modified is None else readable(head.modified),
            length=head.length,
            validator=head.validator,
            source=self._source,
            size=self.size,
            sha256="",
            synced=0,
            synced_sha256="",
            boot=boot_id(),
            time=partials.clock(),
        )

    def _file(self) -> str:
        assert self.temporary is not None
        return "/".join((*self.folder, os.fsdecode(self.temporary)))

    def write_back(self) -> None:
        """Ask the kernel to start writing its buffers, so that the later sync has little left to do."""
        if self.descriptor is not None and CAN_ADVISE:
            self._flushed = self.size
            try:
                os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            except OSError:
                return  # the sync reports the error

    def finish(self, body: Body) -> None:
        """Mark the end of the bytes, and verify them against `body`.

        Raises `StoreError`: truncated if the size differs from `body`'s, checksum if the digest differs,
        where `body` has one, or one of `body.checks`. (The fetcher has checked all other digests that the job
        or the server named.)
        """
        self.sha256 = self._digest.hexdigest()
        if self.size != body.size:
            self.discard()
            raise StoreError(Reason.TRUNCATED, f"{self.label}: {self.size} bytes came of {body.size}")
        if body.sha256 is not None and self.sha256 != body.sha256:
            self.discard()
            raise StoreError(Reason.CHECKSUM, f"{self.label}: the bytes are not those that were sent")
        if body.checks is not None:
            self._check(body.checks)
        if self._latest is not None and self.descriptor is not None:
            modified = http_date(self.head.modified)
            if modified is not None and modified <= self._latest:
                with contextlib.suppress(OSError, OverflowError):  # not every file system knows every time
                    os.utime(self.descriptor, (self._latest, modified))
        self.body = body

    def _check(self, checks: str) -> None:
        for check in checks.split():
            algorithm, _, wanted_digest = check.partition("=")
            try:
                found = self.sha256 if algorithm == "sha256" else self._digest_of(algorithm)
            except OSError as error:
                self.discard()
                raise disk(error, self.label) from error
            if found != wanted_digest.lower():
                self.discard()
                raise StoreError(Reason.CHECKSUM, f"the content has not the {algorithm} {wanted_digest}")

    def _digest_of(self, algorithm: str) -> str:
        """Another digest of the file so far, for which it is read again."""
        if algorithm not in hashlib.algorithms_available or self.temporary is None:
            return ""
        return digest(os.fsdecode(self.temporary), self._folders.at(self.folder), algorithm)

    def rest(self) -> None:
        """Sync a finished draft to the disk, and close its descriptor; keep it open if that fails."""
        if self.body is None or self.descriptor is None:
            return
        with contextlib.suppress(OSError):  # the commit will meet and report the same error
            os.fsync(self.descriptor)
            self.synced = True
            self.close()

    def release(self) -> None:
        """Keep the bytes so far for another transfer, if it can continue them; otherwise `discard`."""
        partials, descriptor = self._partials, self.descriptor
        if partials is None or descriptor is None or not self.keeps:
            self.discard()
            return
        row = self._row("")._replace(sha256=self._digest.hexdigest())
        self.descriptor = self.temporary = self.recorded = None
        partials.release(descriptor, row)
        self.discard()

    def discard(self) -> None:
        """Close and remove the temporary. A second call, or one after a commit, does nothing."""
        self.close()
        self._digest.close()
        self._unsettled.discard(self)
        temporary, self.temporary = self.temporary, None
        if self.recorded is not None and self._partials is not None and temporary is not None:
            self._partials.drop(self.recorded)
        if temporary is not None:
            try:
                os.unlink(temporary, dir_fd=self._folders.at(self.folder))
            except (OSError, StoreError):
                self._folders.forget()

    def close(self) -> None:
        """Close the descriptor."""
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            os.close(descriptor)
