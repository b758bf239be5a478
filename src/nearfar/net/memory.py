"""Memory that is not needed any more goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes

MUCH = 8 << 20
"""Bytes that were let go, after which it is worth the while."""
EVERY = 1.0
"""Seconds between two times: each takes some milliseconds."""


class Trim:
    """Watches how much a service keeps.

    The allocator keeps what was freed for what comes next. That is right in a stream of messages, and wrong
    after a heap of them that had waited for a peer which is gone.
    """

    def __init__(self) -> None:
        self._most = 0
        self._last = float("-inf")

    def look(self, kept: int, now: float) -> None:
        """So many bytes are kept now: give back what was freed, if it was much. `now` is in seconds."""
        if kept >= self._most:
            self._most = kept
        elif self._most - kept >= MUCH and kept * 2 <= self._most and now >= self._last + EVERY:
            self._most, self._last = kept, now
            give_back()


def give_back() -> None:
    """Have the C library give back what was freed; where it cannot, nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
