"""The one name for both: a queue without an address is near, one with an address is far."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from nearfar.queues.base import BaseJoinableQueue, BaseQueue
from nearfar.queues.far import FarJoinableQueue, FarQueue
from nearfar.queues.near import NearJoinableQueue, NearQueue

Q = TypeVar("Q", bound=BaseQueue)


class Front(Generic[Q]):
    """Makes queues: called like `multiprocessing.Queue`, with an address if it is to be far."""

    def __init__(self, near: type[Any], far: type[Any]) -> None:
        self._near = near
        self._far = far

    def __call__(self, maxsize: int = 0, address: str | None = None, **options: Any) -> Q:
        """A queue of at most `maxsize` items (0: no bound).

        Without an address it is near: `multiprocessing`'s own, for this process and its children (`ctx`
        chooses their start method). With one, this process hosts it there, and every other process that
        can reach the address may `connect`; see `FarQueue` for the options. Raises `AddressError`.
        """
        near = address is None
        made: Q = self._near(maxsize, **options) if near else self._far(maxsize, address, **options)
        return made

    def connect(self, address: str, *, wait: float = 60.0) -> Q:
        """An end of the queue that another process hosts at `address`. Nothing is sent before it is used.

        Calls raise `QueueLost` once no host has answered for `wait` seconds, and `AddressError` is
        raised at once for an address that cannot be read.
        """
        made: Q = self._far.connect(address, wait=wait)
        return made


Queue: Front[BaseQueue] = Front(NearQueue, FarQueue)
JoinableQueue: Front[BaseJoinableQueue] = Front(NearJoinableQueue, FarJoinableQueue)
