"""One thread at a time, and nothing in the middle of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


class Alone:
    """A lock at which no garbage collection gets stuck.

    What is done under it may start a collection, in the same thread, and that may end a forgotten pool: this
    very one, perhaps. Only for what is done `safely` (see `nearfar.net.deputy`), or in a thread of ours.
    """

    __slots__ = ("lock", "thread")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.thread: int | None = None

    def __call__(self, otherwise: T, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `do` returns; `otherwise`, without doing it, in the middle of another call by this thread."""
        thread = threading.get_ident()
        with self.lock:
            if self.thread is not None:
                return otherwise
            self.thread = thread
            try:
                return do(*args, **kwargs)
            finally:
                self.thread = None

    def look(self, do: Callable[[], T]) -> T:
        """What `do` returns, which only looks: done in the middle of another call, too."""
        return do() if self.here else cast(T, self(None, do))

    @property
    def here(self) -> bool:
        """Whether this thread is in the middle of a call."""
        return self.thread == threading.get_ident()

    def forget_parent(self) -> None:
        """In a forked child: whoever was in the middle of a call is not there."""
        self.lock = threading.RLock()
        self.thread = None
