"""Wait for another thread or process, with a time limit."""

from __future__ import annotations

import gc
import select
import time
from collections.abc import Callable


def eventually(holds: Callable[[], bool], within: float = 60.0) -> bool:
    """Call `holds` repeatedly for up to `within` seconds; returns whether it became true.

    For states that offer nothing to wait on, such as another process's open files. Where there is an
    event, a join or a sentinel, wait for that instead.
    """
    pause = select.poll()
    until, collected = time.monotonic() + within, 0.0
    while not holds():
        now = time.monotonic()
        if now >= until:
            return False
        if now > collected + 0.1:  # a collection takes longer than most of what is waited for
            gc.collect()
            collected = now
        pause.poll(5)
    return True
