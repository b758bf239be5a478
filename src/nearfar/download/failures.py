"""The failures file: what failed and why, as input that can be fed back in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from nearfar.download.lines import Bad, failed_line
from nearfar.download.model import Failure, Job


class Failures:
    """Collects failed lines beside `path`, and gives them its name at the end.

    URLs stand in it whole, secrets included, for it is input again: nobody but its owner may read it.

    Until `close`, a file of an earlier run keeps its content, so that it can be this run's input. When
    nothing failed, `close` removes it: it speaks of a run that is over. One that another run put there
    in the meantime stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        self._file: IO[str] | None = None
        self._earlier = _identity(path)

    def add(self, entry: Job | Bad, failure: Failure) -> None:
        """Write one line. Raises `OSError`."""
        if self._file is None:
            # One of a run that was killed under our process id may lie there, with other permissions.
            self._unfinished.unlink(missing_ok=True)
            descriptor = os.open(self._unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._file = os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape")
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
