"""`Queue` and `JoinableQueue`: without an address they make near queues, with an address far ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from nearfar.net import schemes
from nearfar.queues.base import RemoteJoinableQueue, RemoteQueue, Transport
from nearfar.queues.near import NearJoinableQueue, NearQueue

N = TypeVar("N", bound=NearQueue)
F = TypeVar("F", bound=RemoteQueue)


class QueueFactory(Generic[N, F]):
    """Makes queues: called like `multiprocessing.Queue`, with an address for a far queue."""

    def __init__(self, near: type[N], far: Callable[[Transport], type[F]]) -> None:
        """`far` chooses one of the two classes of a transport."""
        self._near = near
        self._far = far

    def _at(self, address: str) -> type[F]:
        return self._far(schemes.load(schemes.QUEUES, address))

    @overload
    def __call__(self, maxsize: int = 0, address: None = None, **options: Any) -> N: ...

    @overload
    def __call__(self, maxsize: int, address: str, **options: Any) -> F: ...

    def __call__(self, maxsize: int = 0, address: str | None = None, **options: Any) -> N | F:
        """A queue of at most `maxsize` items (0: no bound).

        Without an address the queue is near: `multiprocessing`'s own, for this process and its children
        (`ctx` chooses their start method). With an address, every other process that can reach it may
        `connect`. The scheme of the address chooses what holds the items: for ``tcp://`` and ``ipc://`` this
        process does (see `FarQueue` for the options), for ``redis://`` a Redis server (`RedisQueue`). Raises
        `AddressError`.
        """
        if isinstance(maxsize, str) and "://" in maxsize:
            raise TypeError(
                f"maxsize is a number of items, not an address: use Queue.connect({maxsize!r}) to use the"
                f" queue that is hosted there, Queue(0, {maxsize!r}) to host one"
            )
        if not isinstance(maxsize, int):
            raise TypeError(f"maxsize is a number of items, not {maxsize!r}")
        if address is None:
            if options.pop("dashboard", False):
                raise ValueError("a near queue has no host that could count: dashboard= needs an address")
            return self._near(maxsize, **options)
        return self._at(address)(maxsize, address, **options)  # type: ignore[call-arg]

    def connect(
        self,
        address: str,
        *,
        keys: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        wait: float = 60.0,
    ) -> F:
        """A client of the queue that another process made at `address`. Nothing is sent before first use.

        `keys` and `insecure` must match those of the host. Calls raise `QueueLost` once no host has answered
        for `wait` seconds, and `NotAdmitted` if the keys do not match. Raises `AddressError` at once for an
        address that cannot be parsed, and `KeysError`.
        """
        return self._at(address).connect(address, keys=keys, insecure=insecure, wait=wait)


def _queue(transport: Transport) -> type[RemoteQueue]:
    return transport.queue


def _joinable(transport: Transport) -> type[RemoteJoinableQueue]:
    return transport.joinable


Queue = QueueFactory(NearQueue, _queue)
JoinableQueue = QueueFactory(NearJoinableQueue, _joinable)
