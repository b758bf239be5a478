"""The output directory and its sub-directories, accessed by descriptors; a rename that never replaces."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import stat
from collections import OrderedDict
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from nearfar.download.model import Reason, StoreError
from nearfar.download.store.names import shorten

_NOREPLACE = 1  # renameat2(2)
_CANNOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})
"""Errors by which kernels, file systems and sandboxes report that they do not support it."""


def rename_new(old: bytes, new: str, folder: int) -> bool:
    """Rename `old` to `new` in `folder` unless that name is taken; False where this is not supported.

    Raises FileExistsError for a name that is taken, and other OSErrors.
    """
    call = _renameat2()
    if call is None:
        return False
    if call(folder, old, folder, os.fsencode(new), _NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), new)


@cache
def _renameat2() -> Any:
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN_AT_MOST = 32
_CHUNK = 1 << 20
_CANNOT_LINK = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Folders:
    """Opens sub-directories step by step from the root, never through a symlink, and keeps a few open.

    A descriptor that `at` returns is valid until the next call of `at`. The root itself may be reached
    through symlinks: the user chose it.
    """

    def __init__(self, root: Path) -> None:
        """Creates `root` if need be. Raises OSError."""
        root.mkdir(parents=True, exist_ok=True)
        self.root = os.open(root, _FOLDER)
        self._open: OrderedDict[tuple[str, ...], int] = OrderedDict()

    def at(self, parts: tuple[str, ...], *, create: bool = False) -> int:
        """The descriptor of the sub-directory `parts`.

        Raises OSError, or `StoreError` (rejected) where a symlink or a file is in the way.
        """
        if not parts:
            return self.root
        known = self._open.get(parts)
        if known is not None:
            self._open.move_to_end(parts)
            return known
        above = self.at(parts[:-1], create=create)
        if create:
            _make(parts[-1], above)
        try:
            opened = os.open(parts[-1], _FOLDER | os.O_NOFOLLOW, dir_fd=above)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                where = "/".join(parts)
                raise StoreError(
                    Reason.REJECTED, f"{where} is a symlink or a file, not a directory"
                ) from error
            raise
        self._open[parts] = opened
        if len(self._open) > _OPEN_AT_MOST:
            os.close(self._open.popitem(last=False)[1])
        return opened

    def forget(self) -> None:
        """Close the sub-directories, so that the next `at` opens the present ones."""
        while self._open:
            os.close(self._open.popitem()[1])

    def close(self) -> None:
        self.forget()
        os.close(self.root)


def _make(name: str, above: int) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=above)
        os.fsync(above)


def place(temporary: bytes, name: str, folder: int, *, replace: bool) -> None:
    """Give the file `temporary` of `folder` its final name, in one step.

    Raises FileExistsError where the name is taken: by anything if not `replace`, otherwise by something
    that is neither a file nor a symlink (a symlink is replaced, never followed).
    """
    if not replace:
        if rename_new(temporary, name, folder):
            return
        try:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
        else:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            return
    there = kind(name, folder)
    if there is not None and not (replace and (stat.S_ISREG(there) or stat.S_ISLNK(there))):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def set_aside(name: str, folder: int) -> str:
    """Rename the file `name` to an unused name, and return that. Raises OSError."""
    for number in count(1):
        aside = shorten(name, ".spoilt" if number == 1 else f".spoilt-{number}")
        with contextlib.suppress(FileExistsError):
            if rename_new(os.fsencode(name), aside, folder):
                break
            if kind(aside, folder) is None:
                os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
                break
    return aside


def names(folder: int) -> list[str]:
    """The names in a folder."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def kind(name: str, folder: int) -> int | None:
    """The mode of `name` itself, without following a symlink; None if it does not exist."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def regular(name: str, folder: int) -> os.stat_result | None:
    """The `stat` result of the file `name`; None if it does not exist or is no regular file."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def digest(name: str, folder: int, algorithm: str) -> str:
    """The digest of the file `name`, lower-case hex. Raises OSError; ValueError for an unknown algorithm."""
    state = hashlib.new(algorithm)
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            state.update(data)
    return state.hexdigest()
