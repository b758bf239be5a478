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
        self._own = self.waker.fileno()
        self.until = inf
        """When who sleeps here wakes at the latest."""
        self._watched: list[int] = []
        self._poll = _poll(self._own)
        self._sleeping = False

    def sleep(self, watched: list[int], until: float) -> bool:
        """Sleep until that time (by `time.monotonic`), until woken, or until one of `watched` is readable:
        whether it is that."""
        self.until = until
        if self._sleeping:  # in a signal's handler, while this thread sleeps here
            return self._sleep(_poll(self._own, *watched), until)
        if watched is not self._watched:
            self._poll = _poll(self._own, *watched)
            self._watched = watched
        self._sleeping = True
        try:
            return self._sleep(self._poll, until)
        finally:
            self._sleeping = False

    def _sleep(self, poll: select.poll, until: float) -> bool:
        patience = max(0.0, until - time.monotonic())
        came = False
        for descriptor, _ in poll.poll(int(patience * 1000) + 1 if patience else 0):
            if descriptor == self._own:
                self.waker.clear()
            else:
                came = True
        return came


def _poll(*descriptors: int) -> select.poll:
    made = select.poll()
    for descriptor in descriptors:
        made.register(descriptor, select.POLLIN)
    return made
