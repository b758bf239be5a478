"""Where a thread of an end sleeps."""

from __future__ import annotations

import select
import time
from math import inf

from nearfar.net.waker import Waker


class Bed:
    """Where a thread sleeps until it is woken, or something comes."""

    def __init__(self) -> None:
        self.waker = Waker()
        self.until = inf
        """When who sleeps here wakes at the latest."""
        self._watched: list[int] = []
        self._poll = select.poll()
        self._poll.register(self.waker.fileno(), select.POLLIN)

    def sleep(self, watched: list[int], until: float) -> bool:
        """Sleep until that time (by `time.monotonic`), until woken, or until one of `watched` is readable:
        whether it is that."""
        self.until = until
        if watched is not self._watched:
            self._poll = select.poll()
            for descriptor in (self.waker.fileno(), *watched):
                self._poll.register(descriptor, select.POLLIN)
            self._watched = watched
        patience = max(0.0, until - time.monotonic())
        found = [each for each, _ in self._poll.poll(int(patience * 1000) + 1 if patience else 0)]
        if self.waker.fileno() in found:
            self.waker.clear()
            found.remove(self.waker.fileno())
        return bool(found)
