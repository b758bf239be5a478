"""Failures of a service: what the system lacks, errors that its loop outlives, and the end of its loop."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from time import monotonic, sleep

from nearfar.net.validation import ProtocolErrors

SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EAGAIN, errno.EINTR}
)
"""Errors of system calls that may succeed when they are made again a little later."""


PAUSE = 0.01
"""Seconds that a loop sleeps when its poll fails, so that it does not use up the processor."""


def shortage(error: BaseException) -> str | None:
    """A sentence for an error about lack of memory or threads; None for any other error."""
    if isinstance(error, RuntimeError) and "start new thread" not in str(error):
        return None
    if not isinstance(error, MemoryError | RuntimeError):
        return None
    return f"{str(error) or 'out of memory'}: raise the limits of memory or processes (ulimit)"


def short(error: BaseException | None) -> bool:
    """Whether the error is a lack of resources: the call may succeed a little later."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) in SHORTAGES


class LoopFailures:
    """Logs errors in a service's loop, within bounds, so that the loop can go on. For one thread at a time.

    For errors that have broken nothing: what failed is done again, or comes again.
    """

    def __init__(self, log: logging.Logger, place: object) -> None:
        """`place` names the service in the log."""
        self._place = place
        self._complaints = ProtocolErrors(log)

    @property
    def count(self) -> int:
        """The number of errors."""
        return self._complaints.count

    def note(self, error: BaseException, doing: str = "a call failed") -> None:
        """Log an error that the loop has survived."""
        self._complaints.note(f"{self._place} goes on, though {doing}: %s", error, monotonic())

    def pause(self, error: BaseException) -> None:
        """Log a failure of the loop's wait, and sleep for `PAUSE`: it is repeated after that."""
        self.note(error)
        sleep(PAUSE)


def on_service_failure(tell: Callable[[str], object]) -> None:
    """Have `tell` called with a sentence when an error has ended the loop of any service in this process. It
    is called in that service's thread."""
    _told.append(tell)


def service_failed(sentence: str) -> None:
    """Report that an error has ended the loop of a service."""
    for tell in _told:
        tell(sentence)


_told: list[Callable[[str], object]] = []
