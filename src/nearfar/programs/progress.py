"""How a long job says how far it is, and who gets to see it.

Nothing here has a thread or a clock: the program calls `Progress.show` as often as it likes, with the time.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable
from typing import Protocol

from nearfar.programs.counts import Counts, Pace, describe, describe_pace


class Progress(Protocol):
    """Shows how far a job is."""

    def show(self, counts: Counts, now: float) -> None:
        """Show `counts` at `now` (seconds of a clock that does not go back), if it is time to."""

    def close(self, counts: Counts, now: float) -> None:
        """Show where it ended, and leave the terminal as it was. Called once, and last."""


class Silent:
    """Shows nothing."""

    def show(self, counts: Counts, now: float) -> None:
        """Show nothing."""

    def close(self, counts: Counts, now: float) -> None:
        """Show nothing."""


def log(line: str) -> None:
    """Log one line of progress, so that it follows ``--log-format``."""
    logging.getLogger("nearfar").info("%s", line, extra={"event": "progress"})


class Lines:
    """One line now and then, and none at all for a job that ends before the first is due."""

    def __init__(self, every: float = 10.0, say: Callable[[str], None] = log) -> None:
        """Say a line every `every` seconds."""
        self._every = every
        self._say = say
        self._pace = Pace(window=2 * every)
        self._due: float | None = None

    def show(self, counts: Counts, now: float) -> None:
        """Say a line if the last one is long enough ago."""
        self._pace.note(counts, now)
        if self._due is None:
            self._due = now + self._every
        elif now >= self._due:
            self._due = now + self._every
            self._say(f"{describe(counts)}; {describe_pace(self._pace, counts, now)}")

    def close(self, counts: Counts, now: float) -> None:
        """Nothing: the program itself says how it ended."""


def make_progress(*, quiet: bool, log_format: str = "text", every: float = 10.0) -> Progress:
    """What suits: nothing if `quiet`, bars on a terminal that reads text, else a line every `every` seconds.

    Without rich (the extra ``download``) a terminal gets lines too.
    """
    if quiet:
        return Silent()
    if log_format == "text" and sys.stderr.isatty() and importlib.util.find_spec("rich"):
        from nearfar.programs.bars import Bars

        return Bars()
    return Lines(every)
