"""What a process lacks that gets no memory, thread or descriptor: for good, or for a moment."""

from __future__ import annotations

import errno
import logging
from time import monotonic

from nearfar.net.complaints import Complaints

SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EAGAIN, errno.EINTR}
)
"""Errors of system calls that may succeed when they are made again a little later."""


PAUSE = 0.01
"""Seconds for which a loop stands still that could not wait: it would else burn its processor."""


def shortage(error: BaseException) -> str | None:
    """One sentence; None for any other error."""
    if isinstance(error, RuntimeError) and "start new thread" not in str(error):
        return None
    if not isinstance(error, MemoryError | RuntimeError):
        return None
    return f"{str(error) or 'out of memory'}: raise the limits of memory or processes (ulimit)"


def short(error: BaseException | None) -> bool:
    """Whether it tells that the system lacks something now: what failed may be tried again a little later."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) in SHORTAGES


class Mishaps:
    """What fails in a service's loop, for want of something or otherwise, does not end it: it is logged,
    within bounds, and the loop goes on. For one thread at a time.

    Use it where an error has spoiled nothing: what was to be done is done again, or comes again.
    """

    def __init__(self, log: logging.Logger, place: object) -> None:
        """`place`: of the service, for a person."""
        self._place = place
        self._complaints = Complaints(log)

    @property
    def count(self) -> int:
        """How many there were."""
        return self._complaints.count

    def note(self, error: BaseException, doing: str = "a call failed") -> None:
        """Tell of an error that the loop has survived."""
        self._complaints.note(f"{self._place} goes on, though {doing}: %s", error, monotonic())
