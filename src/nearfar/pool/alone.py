"""One thread at a time, and nothing in the middle of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from nearfar.net.shield import Shield

P = ParamSpec("P")
T = TypeVar("T")


class Alone:
    """A lock that no signal can tear open, nor a garbage collection get stuck at.

    What is done under it may start a collection, in the same thread, and that may end a forgotten pool: this
    very one, perhaps. Not for a thread that is `exposed` (see `nearfar.net.deputy`).
    """

    __slots__ = ("_lock", "_thread")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._thread: int | None = None

    def __call__(self, otherwise: T, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `do` returns; `otherwise`, without doing it, in the middle of another call by this thread."""
        thread = threading.get_ident()
        with _shield, self._lock:  # in this order: nothing can be raised once the lock is held
            if self._thread is not None:
                return otherwise
            self._thread = thread
            try:
                return do(*args, **kwargs)
            finally:
                self._thread = None

    def look(self, do: Callable[[], T]) -> T:
        """What `do` returns, which only looks: done in the middle of another call, too."""
        return do() if self.here else cast(T, self(None, do))

    @property
    def here(self) -> bool:
        """Whether this thread is in the middle of a call."""
        return self._thread == threading.get_ident()

    def forget_parent(self) -> None:
        """In a forked child: whoever was in the middle of a call is not there."""
        self._lock = threading.RLock()
        self._thread = None


_shield = Shield()
