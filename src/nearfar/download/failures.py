"""The failures file: what failed and why, as input that can be fed back in."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from nearfar.download.lines import LONGEST_LINE, Bad, failed_line
from nearfar.download.model import Failure, Job, Reason
from nearfar.output import Output, check, open_planted, special, sweep

_FAILED = re.compile(rb"([^\r\n]*\t)?# (%s): [^\r\n]*\n" % "|".join(map(re.escape, Reason)).encode())


class Failures:
    """Collects failed lines beside `path`, and gives them its name at the end.

    URLs stand in it whole, secrets included, for it is input again: nobody but its owner may read it.

    Until `close`, a file of an earlier run keeps its content, so that it can be this run's input. When
    nothing failed, `close` removes it if it is a failures file (`is_own`): it speaks of a run that is over.
    Any other file stays, as does one that another run put there in the meantime. What a killed run had begun
    is removed: run again, it meets the same failures. A device, FIFO or socket gets each line at once.
    """

    def __init__(self, path: Path) -> None:
        """Raises `OSError` where `path` can be no file, or nobody reads the FIFO that it is."""
        check(path)
        self.path = path
        self.count = 0
        self.trouble: OSError | None = None
        """Why the file could not be written, or an old one not be removed."""
        self._target = Path(os.path.realpath(path))
        self.passing = special(path)
        """What is written does not stay in a file."""
        self._output = Output(path, private=True) if self.passing else None
        self._earlier = _identity(path)
        if not self.passing:
            sweep(self._target)

    def add(self, entry: Job | Bad, failure: Failure) -> None:
        """Write one line. Raises nothing: what cannot be written is counted, and `trouble` says why."""
        self.count += 1
        if self.trouble is not None:
            return
        try:
            if self._output is None:
                self._output = Output(self.path, private=True)
            self._output.file.write(failed_line(entry, failure))
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Put the file in its place, or remove an old one. One that could not be written leaves it there."""
        try:
            if self._output is not None:
                self._output.commit()
            elif not self.count and _identity(self.path) == self._earlier and is_own(self._target):
                self._target.unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.trouble = error
        if self._output is not None:
            self._output.discard()
            self._output = None


def is_own(path: Path) -> bool:
    """Whether a file is a failures file and nothing else: regular, this user's alone, and every line in it
    says after its URL why that failed, as only this program writes it."""
    try:
        with open_planted(path) as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                return False
            lines = 0
            while line := file.readline(4 * LONGEST_LINE):
                if not _FAILED.fullmatch(line):
                    return False
                lines += 1
            return lines > 0
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells this file from another that takes its name; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
