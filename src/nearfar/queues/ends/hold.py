"""The lock of an end, held so that no signal tears what is done under it."""

from __future__ import annotations

import threading

from nearfar.net.shield import Shield


class Hold:
    """A context manager, for any thread, reentrant: inside, `lock` is held, and `shield` is up."""

    __slots__ = ("_lock", "_shield")

    def __init__(self, lock: threading.RLock, shield: Shield) -> None:
        self._lock = lock
        self._shield = shield

    def __enter__(self) -> None:
        self._shield.__enter__()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._shield.__exit__()
