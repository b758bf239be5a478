"""Why a file could not be kept, in the classes that a download is counted by."""

from __future__ import annotations

import errno
import os
import sqlite3

from nearfar.download.model import Failure, Reason
from nearfar.errors import NearfarError

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
    """A file that could not be kept; nothing of it is left under its final name.

    `reason` is the class, `detail` a sentence for a person, on one line and free of secrets.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    @property
    def failure(self) -> Failure:
        """The same as a value, for the count."""
        return Failure(self.reason, self.detail)


def lacks_room(error: OSError | sqlite3.Error | StoreError) -> bool:
    """Whether more room on the disk may help: SQLite has but one word for a quota and a broken disk."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says which call failed
        return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk(error: OSError | sqlite3.Error | StoreError, what: str) -> StoreError:
    """`error`, met at `what` (a name), as a `StoreError` of class disk; one that is so already stays."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, sqlite3.Error):
        return StoreError(Reason.DISK, f"{what}: {error}")
    number = error.errno or 0
    return StoreError(Reason.DISK, f"{what}: {_SENTENCES.get(number) or os.strerror(number)}")
