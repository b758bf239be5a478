"""Freed memory: given back to the system by services, and kept for the next message by downloads. Also how
often the garbage collector runs."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

MUCH = 8 << 20
"""Freed bytes after which trimming is worthwhile."""


EVERY = 1.0
"""Seconds between two trims: each takes some milliseconds."""


class Trim:
    """Returns freed memory to the system after a service has kept much.

    The allocator keeps freed memory for reuse. That is right for a stream of messages, but wrong after many
    of them had waited for a peer that is gone.
    """

    def __init__(self) -> None:
        self._most = 0
        self._last = float("-inf")

    def look(self, kept: int, now: float) -> None:
        """Return freed memory if it is much; `kept` bytes are in use now. `now` is in seconds."""
        if kept >= self._most:
            self._most = kept
        elif self._most - kept >= MUCH and kept * 2 <= self._most and now >= self._last + EVERY:
            self._most, self._last = kept, now
            give_back()


def give_back() -> None:
    """Have the C library return freed memory to the system, if it can."""
    import ctypes  # here, because most processes never need it

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)


_KEPT = 64 * 1024 * 1024


_LARGEST = 32 * 1024 * 1024


_TUNED = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""The variables with which users set the same."""


def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MiB of freed memory for the next message; elsewhere, and where the user has set
    it, do nothing.

    By itself it maps each block above 128 KiB anew, and the kernel clears each page at its first touch:
    measured, half or more of the 65 to 100 microseconds that a file of 20 kB costs in a near queue.
    """
    if any(name in os.environ for name in _TUNED):
        return
    import ctypes

    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Inside, the garbage collector does not run: what modules make while they load lives to the end."""
    ran = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if ran:
            gc.enable()


_COLLECTED = 20_000


@contextlib.contextmanager
def collecting_seldom() -> Iterator[None]:
    """Inside, the garbage collector runs seldom: the objects of a file or a message are freed without it.

    By default it runs at every 700th object, and now and then looks at all objects of the program.
    """
    before = gc.get_threshold()
    gc.set_threshold(_COLLECTED, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
