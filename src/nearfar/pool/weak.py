"""A weak set that threads may share: the standard's fails if one adds while another iterates."""

from __future__ import annotations

import threading
import weakref
from typing import Generic, TypeVar

from nearfar.net.deputy import safe

__all__ = ["WeakBag"]

T = TypeVar("T")


class WeakBag(Generic[T]):
    """Things that are here as long as somebody else keeps them."""

    def __init__(self) -> None:
        self._members: weakref.WeakSet[T] = weakref.WeakSet()
        # Reentrant: a garbage collection inside may end a pool, which looks at its own bag, or at this one.
        self._lock = threading.RLock()

    @safe
    def add(self, member: T) -> None:
        with self._lock:
            self._members.add(member)

    @safe
    def discard(self, member: T) -> None:
        with self._lock:
            self._members.discard(member)

    @safe
    def members(self) -> list[T]:
        """Those that are here now."""
        with self._lock:
            return list(self._members)
