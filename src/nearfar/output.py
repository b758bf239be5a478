"""Writes the files that users name for output, so that only regular files are ever replaced.

==============================  ================================================================
the path names                  what happens
==============================  ================================================================
nothing, or a regular file      a complete draft in the same folder replaces it atomically
a symlink                       the same for its target; the link stays
a device, a FIFO, a socket      it is written to, at once and in order
this process's own output (*)   the same
a directory                     `IsADirectoryError`
==============================  ================================================================

(*) ``/dev/stdout`` and the like, even if the shell has redirected it to a file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

READER = 5.0
"""Seconds to wait for a reader of a FIFO."""
LONGEST = 240
"""Bytes of a name up to which a draft's name contains it: file systems allow 255."""

_LOOK = 0.02
_OPEN = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DRAFT = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_DRAFT = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""Errors if no draft can be made in the folder, though the file may be writable."""
_NO_RENAME = frozenset({errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV})
"""Errors if the file cannot be replaced, such as one that a container has mounted."""


class Output:
    """One file for output: a context manager, which commits unless its block raises.

    Write to `file`, then `commit` or `discard`. A second call of either does nothing.
    """

    def __init__(self, path: Path, *, private: bool = False) -> None:
        """Open the file. `private`: only its owner can access a new file, whatever the old one's mode.

        Waits up to `READER` seconds for a reader of a FIFO; signal handlers run meanwhile. Raises `OSError`,
        with a sentence.
        """
        self.path = path
        self._draft: Path | None = None
        self._target: Path | None = None
        """The regular file to replace on commit; None: `file` writes to the destination directly."""
        found = _found(path)
        if found is None or stat.S_ISREG(found.st_mode):
            own = _own_stream(path, found)
            if own is None:
                self._target = Path(os.path.realpath(path))
                self.file = self._begin(found, private=private)
                return
            descriptor = os.dup(own)
        else:
            descriptor = _special(path, found.st_mode)
        self.file = _text(descriptor, direct=True)

    def commit(self) -> None:
        """Write everything to disk, and replace the old file. Raises `OSError`: an old file stays then."""
        if self.file.closed:
            return
        try:
            self.file.flush()
            if self._target is not None:
                os.fsync(self.file.fileno())
                self._place(self._target)
                self._draft = None
        finally:
            self.discard()

    def goes_where(self, other: Output | None) -> bool:
        """Whether both would replace the same regular file."""
        return other is not None and self._target is not None and self._target == other._target

    def discard(self) -> None:
        """Close, and leave an old file unchanged. Output to a device, FIFO or socket is not undone."""
        draft, self._draft = self._draft, None
        if draft is not None:
            with contextlib.suppress(OSError):
                draft.unlink()
        with contextlib.suppress(OSError):
            self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()

    def _begin(self, found: os.stat_result | None, *, private: bool) -> IO[str]:
        assert self._target is not None, "a draft is for a regular file"
        sweep(self._target)
        try:
            self._draft = draft_of(self._target)
            descriptor = _locked(self._draft, 0o600 if private else 0o666)
        except OSError as error:
            self._draft = None
            if (
                found is None
                or error.errno not in _NO_DRAFT
                or not os.access(self._target, os.W_OK, effective_ids=True)
            ):
                raise
            import tempfile  # seldom needed, and slow to load

            return tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape", newline="")
        if found is not None and not private:
            with contextlib.suppress(OSError):
                os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & 0o777)
                os.fchown(descriptor, found.st_uid, found.st_gid)
        return _text(descriptor)

    def _place(self, target: Path) -> None:
        """Replace `target` if it is still a regular file or missing; something else is written to."""
        there = _found(target, follow=False)
        if self._draft is not None and (there is None or stat.S_ISREG(there.st_mode)):
            try:
                self._draft.replace(target)
                return
            except OSError as error:
                if there is None or error.errno not in _NO_RENAME:
                    raise
        with _text(_special(target, 0 if there is None else there.st_mode)) as there_now:
            if there is not None and stat.S_ISREG(there.st_mode):
                there_now.truncate(0)
            self.file.seek(0)
            while text := self.file.read(1 << 16):
                there_now.write(text)
        if self._draft is not None:
            self._draft.unlink()


def write(path: Path, text: str) -> None:
    """Write `text` to the file that a user named. Raises `OSError`."""
    with Output(path) as output:
        output.file.write(text)


def check(path: Path) -> None:
    """Raise `OSError` if `path` cannot be a file: its folder is missing, or it is a directory."""
    found = _found(path)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise _error(errno.EISDIR, path)
    if found is None:
        Path(os.path.realpath(path)).parent.stat()


def special(path: Path) -> bool:
    """Whether `path` is written to at once: a device, a FIFO, a socket, or this process's own output."""
    found = _found(path)
    if found is None:
        return False
    return not stat.S_ISREG(found.st_mode) or _own_stream(path, found) is not None


def same_file(descriptor: int, path: Path) -> bool:
    """Whether writing `path` would write what `descriptor` reads: one regular file, or one FIFO."""
    read, written = os.fstat(descriptor), _found(path)
    if written is None or not (stat.S_ISREG(read.st_mode) or stat.S_ISFIFO(read.st_mode)):
        return False
    return os.path.samestat(read, written)


def draft_of(target: Path) -> Path:
    """The path of this process's draft of `target`."""
    return target.with_name(f"{_stem(target)}.{os.getpid()}")


def sweep(target: Path) -> None:
    """Remove the drafts of `target` that dead processes of this user left: a live one holds a lock.

    Only regular files are removed.
    """
    draft = re.compile(re.escape(_stem(target)) + r"\.\d+")
    with contextlib.suppress(OSError):
        for left in [each for each in target.parent.iterdir() if draft.fullmatch(each.name)]:
            with contextlib.suppress(OSError), open_planted(left) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()


def open_planted(path: Path) -> IO[bytes]:
    """Open for reading a file that another user may have planted: never a FIFO, nor through a symlink.

    Raises `OSError`, also if it is not a regular file, or belongs to another user.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(descriptor)
        raise _error(errno.EPERM, path)
    return os.fdopen(descriptor, "rb")


def _stem(target: Path) -> str:
    name = target.name
    if len(os.fsencode(name)) > LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}"


def _found(path: Path, *, follow: bool = True) -> os.stat_result | None:
    try:
        return path.stat(follow_symlinks=follow)
    except FileNotFoundError:
        return None


def _own_stream(path: Path, found: os.stat_result | None) -> int | None:
    """The descriptor behind ``/dev/stdout``, ``/dev/stderr`` and the like, if `path` is a link to one."""
    if found is not None and path.is_symlink():
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), found):
                    return descriptor
    return None


def _special(path: Path, mode: int) -> int:
    """A descriptor for writing to an existing path; never creates one."""
    if stat.S_ISDIR(mode):
        raise _error(errno.EISDIR, path)
    if stat.S_ISSOCK(mode):
        import socket

        with socket.socket(socket.AF_UNIX) as peer:
            try:
                peer.connect(os.fspath(path))
            except OSError as error:
                raise OSError(error.errno or errno.EINVAL, error.strerror or str(error), str(path)) from None
            return peer.detach()
    until = time.monotonic() + READER
    while True:
        try:
            descriptor = os.open(path, _OPEN)
        except OSError as error:
            if error.errno != errno.ENXIO or not stat.S_ISFIFO(mode):
                raise
            if time.monotonic() >= until:
                raise OSError(
                    errno.ENXIO, "no process reads this FIFO: start its reader first", str(path)
                ) from None
            time.sleep(_LOOK)
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def _locked(draft: Path, mode: int) -> int:
    """A new file, locked to show that its writer is alive. A `sweep` may remove it before it is locked."""
    while True:
        # There may be a draft of a killed process with our process id, with other permissions.
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, _DRAFT, mode)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _text(descriptor: int, *, direct: bool = False) -> IO[str]:
    """A text file over `descriptor`. `direct`: each line is written at once."""
    return os.fdopen(
        descriptor,
        "w" if direct else "r+" if _readable(descriptor) else "w",
        buffering=1 if direct else -1,
        encoding="utf-8",
        errors="surrogateescape",
        newline="",
    )


def _readable(descriptor: int) -> bool:
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def _error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))
