"""A file being written: a temporary beside its target, until `Store.commit` gives it its name."""

from __future__ import annotations

import contextlib
import os

from nearfar.download.fetch.headers import http_date
from nearfar.download.model import Body, Head, Job, Reason, StoreError, disk
from nearfar.download.store.digest import Digest
from nearfar.download.store.folders import Folders
from nearfar.download.store.names import wanted
from nearfar.download.store.owners import Owner

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE_BACK = 32 << 20
CAN_ADVISE = hasattr(os, "posix_fadvise")
"""Whether the kernel can be asked to start writing."""


class Draft:
    """Writes the bytes of one file in order, counts and hashes them. Created by `Store.open`.

    A method that raises `StoreError` has discarded the draft. One that is neither committed nor discarded
    keeps a descriptor open until its store is closed.
    """

    __slots__ = (
        *(
            "__weakref__",
            "_digest",
            "_flushed",
            "_folders",
            "_latest",
            "_unsettled",
            "body",
            "descriptor",
            "folder",
        ),
        *("head", "job", "key", "label", "parts", "sha256", "size", "synced", "temporary", "tried"),
    )

    def __init__(
        self,
        job: Job,
        head: Head,
        key: bytes,
        folders: Folders,
        owner: Owner,
        unsettled: set[Draft],
        *,
        latest: float | None = None,
    ) -> None:
        """`key` is the manifest's key of the job's URL; `unsettled` contains the draft until it is committed
        or discarded. `latest`: give the file the time of its last modification that the server names, unless
        it is after this one (seconds since the epoch). Raises `StoreError`.
        """
        self.job = job
        self.head = head
        self.body: Body | None = None
        """The body that `finish` has verified."""
        self.key = key
        self.parts = parts = wanted(job, head)
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
        self._digest = Digest()
        self._folders = folders
        self._latest = latest
        self._flushed = 0
        try:
            folder = folders.at(self.folder, create=True) if self.folder else folders.root
            self.temporary: bytes | None = owner.temporary(self.folder)
            self.descriptor: int | None = os.open(self.temporary, _CREATE, 0o666, dir_fd=folder)
        except OSError as error:
            folders.forget()
            raise disk(error, self.label) from error
        self._unsettled = unsettled
        unsettled.add(self)

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
        except OSError as error:
            self.discard()
            raise disk(error, self.label) from error

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
        where `body` has one. (The fetcher checks a digest that the job or the server named.)
        """
        self.sha256 = self._digest.hexdigest()
        if self.size != body.size:
            self.discard()
            raise StoreError(Reason.TRUNCATED, f"{self.label}: {self.size} bytes came of {body.size}")
        if body.sha256 is not None and self.sha256 != body.sha256:
            self.discard()
            raise StoreError(Reason.CHECKSUM, f"{self.label}: the bytes are not those that were sent")
        if self._latest is not None and self.descriptor is not None:
            modified = http_date(self.head.modified)
            if modified is not None and modified <= self._latest:
                with contextlib.suppress(OSError, OverflowError):  # not every file system knows every time
                    os.utime(self.descriptor, (self._latest, modified))
        self.body = body

    def rest(self) -> None:
        """Sync a finished draft to the disk, and close its descriptor; keep it open if that fails."""
        if self.body is None or self.descriptor is None:
            return
        with contextlib.suppress(OSError):  # the commit will meet and report the same error
            os.fsync(self.descriptor)
            self.synced = True
            self.close()

    def discard(self) -> None:
        """Close and remove the temporary. A second call, or one after a commit, does nothing."""
        self.close()
        self._digest.close()
        self._unsettled.discard(self)
        temporary, self.temporary = self.temporary, None
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
