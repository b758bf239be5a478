"""What a process lacks that gets no memory, thread or descriptor: for good, or for a moment."""

from __future__ import annotations

import errno

SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EAGAIN, errno.EINTR}
)
"""Errors of system calls that may succeed when they are made again a little later."""


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
