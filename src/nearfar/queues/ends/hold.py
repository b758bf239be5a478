"""The lock of an end, held so that nothing tears what is done under it, and sleep until something changes."""

from __future__ import annotations

import threading
from _thread import allocate_lock
from collections import deque
from contextlib import suppress
from typing import Any

from nearfar.net.shield import Shield

BUSY = "the queue cannot be used in the middle of its own work, by a finalizer or by what reads an item"


class Hold:
    """A context manager, for a thread that is not `exposed`: inside, the lock is held, and the shield is up.

    A garbage collection may start anywhere, and what it runs may use the queue: in the middle of a thread's
    own work that raises `RuntimeError`, before anything is changed.
    """

    __slots__ = ("_busy", "_waiters", "lock")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._busy = False
        """Whether the thread that holds the lock is in the middle of something."""
        self._waiters: deque[Any] = deque()

    def __enter__(self) -> None:
        _shield.__enter__()
        self.lock.acquire()
        if self._busy:
            self.lock.release()
            _shield.__exit__()
            raise RuntimeError(BUSY)
        self._busy = True

    def __exit__(self, *_: object) -> None:
        self._busy = False
        self.lock.release()
        _shield.__exit__()

    def give_up(self) -> Any:
        """Let others have the lock until `take_back`. The shield stays up."""
        self._busy = False
        return self.lock._release_save()  # type: ignore[attr-defined]

    def take_back(self, held: Any) -> None:
        """With what `give_up` returned."""
        self.lock._acquire_restore(held)  # type: ignore[attr-defined]
        self._busy = True

    def wait(self, seconds: float) -> None:
        """Inside: give up the lock until `notify`, or for so long. Raises what a signal's handler raises."""
        waiter = allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        held = self.give_up()
        try:
            _shield.let_through(waiter.acquire, True, min(seconds, threading.TIMEOUT_MAX))
        finally:
            self.take_back(held)
            with suppress(ValueError):
                self._waiters.remove(waiter)

    def notify(self, most: int | None = None) -> None:
        """Inside: wake those who `wait`, or up to `most` of them."""
        count = len(self._waiters) if most is None else min(most, len(self._waiters))
        for _ in range(count):
            self._waiters.popleft().release()


_shield = Shield()
