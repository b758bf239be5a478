"""The failures file: what failed and why, as input that can be fed back in."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path
from typing import IO

from nearfar.download.lines import Bad, failed_line
from nearfar.download.model import Failure, Job


class Failures:
    """Collects failed lines beside `path`, and gives them its name at the end.

    URLs stand in it whole, secrets included, for it is input again: nobody but its owner may read it.

    Until `close`, a file of an earlier run keeps its content, so that it can be this run's input. When
    nothing failed, `close` removes it: it speaks of a run that is over. One that another run put there
    in the meantime stays. What a killed run had begun is removed: run again, it meets
    the same failures.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.trouble: OSError | None = None
        """Why the file could not be written, or an old one not be removed."""
        self._unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        self._file: IO[str] | None = None
        self._earlier = _identity(path)
        _sweep(path)

    def add(self, entry: Job | Bad, failure: Failure) -> None:
        """Write one line. Raises nothing: what cannot be written is counted, and `trouble` says why."""
        self.count += 1
        if self.trouble is not None:
            return
        try:
            if self._file is None:
                self._file = _locked(self._unfinished)
            self._file.write(failed_line(entry, failure))
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Put the file in its place, or remove an old one. One that could not be written leaves it there."""
        try:
            if self._file is not None:
                self._finish(self._file)
            elif not self.count and _identity(self.path) == self._earlier:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)

    def _finish(self, file: IO[str]) -> None:
        file.flush()
        os.fsync(file.fileno())
        self._unfinished.replace(self.path)
        file.close()
        self._file = None

    def _give_up(self, error: OSError) -> None:
        self.trouble = error
        file, self._file = self._file, None
        with contextlib.suppress(OSError):
            self._unfinished.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            if file is not None:
                file.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells this file from another that takes its name; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _locked(path: Path) -> IO[str]:
    """A new file, for its owner alone (URLs may hold secrets), whose lock says that its writer lives.

    Between the two, a `_sweep` may have removed it.
    """
    while True:
        # One of a run that was killed under our process id may lie there, with other permissions.
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        file = os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def _sweep(path: Path) -> None:
    """Remove the unfinished files of runs that are dead: a living one holds the lock of its own."""
    unfinished = re.compile(re.escape(f".{path.name}.") + r"\d+")
    with contextlib.suppress(OSError):
        for left in [each for each in path.parent.iterdir() if unfinished.fullmatch(each.name)]:
            with contextlib.suppress(OSError), left.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
