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

    Until `close`, a file of an earlier run keeps its content, so that it can be this run's input. When
    nothing failed, `close` removes it: it speaks of a run that is over. One that another run put there
    in the meantime stays. What a killed run had begun is removed: run again, it meets
    the same failures.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        self._file: IO[str] | None = None
        self._earlier = _identity(path)
        _sweep(path)

    def add(self, entry: Job | Bad, failure: Failure) -> None:
        """Write one line. Raises `OSError`."""
        if self._file is None:
            self._file = _locked(self._unfinished)
        self._file.write(failed_line(entry, failure))
        self.count += 1

    def close(self) -> None:
        """Put the file in its place, or remove an old one. Raises `OSError`."""
        if self._file is None:
            if _identity(self.path) == self._earlier:
                self.path.unlink(missing_ok=True)
            return
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._unfinished.replace(self.path)
        self._file = None


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells this file from another that takes its name; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _locked(path: Path) -> IO[str]:
    """A new file whose lock says that its writer lives. Between the two, a `_sweep` may have removed it."""
    while True:
        file = path.open("w", encoding="utf-8", errors="surrogateescape")
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
