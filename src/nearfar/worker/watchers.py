"""One descriptor for many, each with what is to be done when it is readable."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable


class Watchers:
    """Only `poll` waits, and only one thread at a time may call it; the rest is not for several threads."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._fresh: set[int] = set()
        """Watched since `dispatch` began: an event may be of an earlier descriptor of that number."""

    def fileno(self) -> int:
        """A descriptor that is readable when one of those watched is."""
        return self.epoll.fileno()

    def watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        """Have `dispatch` call `handler` whenever `descriptor` is readable. Raises `OSError`."""
        self.epoll.register(descriptor, select.EPOLLIN)
        self._handlers[descriptor] = handler
        self._fresh.add(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Before it is closed: it may be open still in a child. Nothing happens if it is not watched."""
        if self._handlers.pop(descriptor, None) is not None:
            with contextlib.suppress(OSError):
                self.epoll.unregister(descriptor)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait up to `timeout` seconds for something to do, for `dispatch`."""
        return self.epoll.poll(timeout)

    def dispatch(self, events: list[tuple[int, int]]) -> None:
        """Do what `poll` found."""
        self._fresh.clear()
        for descriptor, _ in events:
            handler = self._handlers.get(descriptor)
            if handler is not None and descriptor not in self._fresh:
                handler()
