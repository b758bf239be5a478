"""The standard's `block` and `timeout` as one moment on the monotonic clock."""

from __future__ import annotations

import time

__all__ = ["deadline_of", "left", "waits"]


def waits(block: bool, timeout: float | None) -> bool:
    """Whether a call waits at all: one with no time to wait is one that does not block."""
    return block and (timeout is None or timeout > 0)


def deadline_of(block: bool, timeout: float | None) -> float | None:
    """The moment (`time.monotonic`) at which a call gives up: None for never, 0 for at once."""
    if not block:
        return 0.0
    return None if timeout is None else time.monotonic() + timeout


def left(deadline: float | None, most: float | None = None) -> float | None:
    """Seconds until `deadline`, at least 0 and at most `most`; None for no limit."""
    if deadline is None:
        return most
    seconds = max(0.0, deadline - time.monotonic())
    return seconds if most is None else min(seconds, most)
