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
    until = time.monotonic() + within
    while not holds():
        if time.monotonic() >= until:
            return False
        gc.collect()
        pause.poll(5)
    return True
