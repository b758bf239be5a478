"""Which processes write into a directory: distinguishes files of killed processes from live ones.

Each store has a random token, and holds a lock (flock) on ``.nearfar-TOKEN.owner`` while it is open: the
kernel releases the lock when the process ends, however it ends, also where process ids are ambiguous
(containers that share a directory). Temporaries are named ``.nearfar-TOKEN-NUMBER.part``. The owner file
lists the sub-directories of its temporaries, so that a sweep need not walk the whole tree.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Collection, Iterator

from nearfar.download.model import StoreError
from nearfar.download.patterns import compile_lazily
from nearfar.download.store.folders import Folders, kind, names
from nearfar.download.store.names import OWN, clean

_OWNED = compile_lazily(re.escape(OWN) + r"-([0-9a-f]{16})(\.owner|-[0-9]+\.part)")
_LOCKABLE = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_LONGEST = 1 << 20
"""Bytes read of an owner's list: about a hundred thousand sub-directories."""


class Owner:
    """This store's token and its lock. One lock file for each store, removed by `close`."""

    def __init__(self, folders: Folders) -> None:
        """Raises OSError."""
        self._folders = folders
        self._listed: set[tuple[str, ...]] = {()}
        self._count = 0
        self.token, self._lock = _locked(folders.root)
        self._prefix = f"{OWN}-{self.token}".encode()

    def temporary(self, parts: tuple[str, ...]) -> bytes:
        """A new name for a temporary in the sub-directory `parts`. Raises OSError."""
        if parts not in self._listed:
            os.write(self._lock, f"{'/'.join(parts)}\n".encode())
            self._listed.add(parts)
        self._count += 1
        return b"%s-%d.part" % (self._prefix, self._count)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(_file(self.token), dir_fd=self._folders.root)
        os.close(self._lock)


def _locked(root: int) -> tuple[str, int]:
    """Create and lock the file of a new token; return both.

    In between, a sweep may unlink the file as a dead owner's; then another is created.
    """
    while True:
        token = os.urandom(8).hex()
        lock = os.open(_file(token), _LOCKABLE | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600, dir_fd=root)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                return token, lock
        except OSError:
            os.close(lock)
            raise
        os.close(lock)


def _file(token: str) -> str:
    return f"{OWN}-{token}.owner"


@contextlib.contextmanager
def _held(token: str, root: int) -> Iterator[list[tuple[str, ...]] | None]:
    """Hold the lock of `token`: yield its sub-directories if its owner is dead, None while it lives.

    Anything but a regular file was made by another program, and has no owner.
    """
    try:
        lock = os.open(_file(token), _LOCKABLE, dir_fd=root)
    except FileNotFoundError:
        yield [()]
        return
    except OSError:
        if _is_ours(token, root):
            raise
        yield [()]
        return
    if not stat.S_ISREG(os.fstat(lock).st_mode):
        os.close(lock)
        yield [()]
        return
    with os.fdopen(lock, "rb", buffering=0) as file:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        lines = file.read(_LONGEST).decode(errors="replace").split("\n")[:-1]
        listed = [tuple(line.split("/")) for line in lines]
        yield [(), *(parts for parts in listed if all(part and clean(part) == part for part in parts))]


def alive(token: str, root: int) -> bool:
    """Whether the owner of `token` still runs. Raises OSError."""
    with _held(token, root) as folders:
        return folders is None


def sweep(folders: Folders, kept: Collection[str] = ()) -> int:
    """Remove the temporaries, then the lock files, of dead owners. Return the number of temporaries.

    `kept`: the paths of partial files, which stay.

    Only files with the store's own name pattern are removed. Raises OSError.
    """
    removed = 0
    for token in {match[1] for match in map(_OWNED.fullmatch, names(folders.root)) if match}:
        with _held(token, folders.root) as left:
            if left is None:
                continue
            removed += sum(_clear(token, parts, folders, kept) for parts in left)
            if _is_ours(token, folders.root):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(_file(token), dir_fd=folders.root)
    return removed


def _is_ours(token: str, root: int) -> bool:
    """Whether the owner file is a regular file, as a store creates it."""
    mode = kind(_file(token), root)
    return mode is not None and stat.S_ISREG(mode)


def _clear(token: str, parts: tuple[str, ...], folders: Folders, kept: Collection[str]) -> int:
    try:
        folder = folders.at(parts)
    except (StoreError, FileNotFoundError):
        return 0
    ours = [m[0] for m in map(_OWNED.fullmatch, names(folder)) if m and m[1] == token and m[2] != ".owner"]
    ours = [name for name in ours if "/".join((*parts, name)) not in kept] if kept else ours
    for name in ours:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(name, dir_fd=folder)
    return len(ours)
