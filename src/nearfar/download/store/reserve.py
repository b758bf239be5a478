"""Room on the disk that no draft may take: it is the manifest's, when the rest of the disk is full."""

from __future__ import annotations

import contextlib
import errno
import os

from nearfar.download.store.folders import Folders
from nearfar.download.store.owners import Owner

MOST = 1 << 20
"""Bytes: what two groups of a few hundred files add to the manifest and its log."""
LEAST = 64 * 1024
"""Bytes: what a few files add. With less than that, no file is begun."""
SHARE = 8
"""Of what is free at the time, one part in so many, if that is less than `MOST`."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Reserve:
    """An unnamed file of allocated blocks, let go when the manifest needs them, and taken again after.

    Where a file system cannot allocate ahead, there is none, and nothing is refused.
    """

    def __init__(self, folders: Folders, owner: Owner) -> None:
        """Holds nothing yet. Raises `OSError`."""
        name = owner.temporary(())
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(name, flags, 0o600, dir_fd=folders.root)
        os.unlink(name, dir_fd=folders.root)
        self._held = 0

    def keep(self) -> None:
        """Take as much as should be held. Raises `OSError` where not even `LEAST` can be."""
        if self._held >= MOST:
            return
        room = os.fstatvfs(self._descriptor)
        size = min(MOST, max(LEAST, (room.f_bavail * room.f_frsize + self._held) // SHARE))
        while self._held < size:
            try:
                os.posix_fallocate(self._descriptor, 0, size)
            except OSError as error:
                self.release()
                if error.errno not in _FULL:
                    self._held = MOST  # it cannot be done here, or not so much: no reason to refuse files
                elif size == LEAST:
                    raise
                size = max(LEAST, size // 2)
            else:
                self._held = size

    def release(self) -> None:
        """Let all of it go: for the manifest, at once."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
        self._held = 0

    def close(self) -> None:
        os.close(self._descriptor)
