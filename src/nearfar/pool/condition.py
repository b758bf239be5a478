"""A sleep until something that others bring about: cut short by signals, and by what ends an errand."""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nearfar.net.deputy import Abandoned, errand_here
from nearfar.net.shield import Shield
from nearfar.queues.deadlines import left

__all__ = ["Condition"]


class Condition:
    """Whoever brings something about notifies; those who wait look again. Nobody holds a lock meanwhile.

    Several threads may wait, and a signal's handler in the middle of another wait of its thread: each has a
    lock of its own to sleep on.
    """

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: deque[Any] = deque()

    def wait(self, ready: Callable[[], bool], deadline: float | None) -> bool:
        """Return once `ready()`, after which `notify` was called; False at `deadline` (None: wait for ever).

        Signals come through while it sleeps. Raises `Abandoned` in a deputy whose caller waits no more.
        """
        if ready():
            return True
        errand = errand_here()
        if errand is not None:
            errand.stir = self.notify
        waiter = allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)  # before the look: whoever brings it about after that notifies
        try:
            while not ready():
                if errand is not None and errand.abandoned:
                    raise Abandoned
                patience = left(deadline)
                depth = _shield.lower()
                try:
                    woken = waiter.acquire(True, -1 if patience is None else patience)
                finally:
                    _shield.lift(depth)
                if not woken:
                    return ready()
            return True
        finally:
            self._waiters.remove(waiter)

    def notify(self) -> None:
        """Something was brought about."""
        for waiter in tuple(self._waiters):
            with suppress(RuntimeError):  # it was woken already
                waiter.release()


_shield = Shield()
