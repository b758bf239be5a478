"""What every queue offers, near or far."""

from __future__ import annotations

import abc
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from nearfar.errors import Empty, ShutDown

__all__ = [
    "BaseJoinableQueue",
    "BaseQueue",
    "BatchDelivery",
    "Delivery",
    "Empty",
    "Promises",
    "RemoteJoinableQueue",
    "RemoteQueue",
    "ShutDown",
    "Transport",
    "deadline_of",
    "left",
    "waits",
]


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Promises:
    """What a transport guarantees, as data: a program can check a guarantee before it relies on it.

    The fields differ between transports; the methods of a queue never do.
    """

    transport: str
    """``"near"``, ``"ipc"``, ``"tcp"``, ``"redis"``, or another scheme of addresses."""
    bounded: bool = True
    """`maxsize` is exact, over all processes."""
    fifo: bool = True
    """The items of one producer come out in the order they went in (one that was redelivered, or that another
    consumer gave back unused, may come later)."""
    crosses_machines: bool = False
    redelivers: bool = False
    """An item that a killed or frozen consumer held is delivered to another consumer."""
    survives_killed_consumer: bool = False
    """A consumer killed at any point, even inside `get`, never stalls the others."""
    survives_killed_host: bool = False
    """Live producers send what they put again to a new host at the same address."""
    counts_end: bool = False
    """Iteration ends by itself once every producer has left; otherwise the program must call `shutdown`."""
    dead_letters: bool = False
    """An item that keeps failing is stored with its history instead of being redelivered for ever."""
    confirms_puts: bool = False
    """What `put` has returned for survives the death of its producer, without a `flush`."""
    durable: bool = False
    """Items outlive all their processes, and a kill of the server that holds them: it writes them to disk."""
    survives_power_cut: bool = False
    """What `put` has returned for outlives a power cut of the server: it was on the disk before."""


@dataclass(frozen=True, slots=True)
class Transport:
    """What is behind the scheme of an address: the entry points of ``nearfar.queues`` name such objects.

    Both classes are called with ``(maxsize, address, **options)`` to make a queue, and have a class method
    ``connect(address, *, keys, insecure, wait)`` for a queue that was made elsewhere. Either may raise
    `AddressError` and `KeysError`.
    """

    queue: type[RemoteQueue]
    joinable: type[RemoteJoinableQueue]


class Delivery(abc.ABC):
    """One item that this consumer holds until it calls `ack` (done) or `nack` (give it back).

    Leaving a ``with`` block acks, or nacks when the block raised.
    """

    item: Any
    attempt: int
    """1 for the first delivery; more when an earlier consumer may already have seen the item."""

    @abc.abstractmethod
    def ack(self) -> None:
        """Mark the item as done. A second call does nothing.

        Does not wait, and does not guarantee that the ack was in time: the broker refuses and counts the ack
        of a superseded attempt.
        """

    @abc.abstractmethod
    def nack(self) -> None:
        """Give the item back for another attempt. A second call, or one after `ack`, does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.ack()
        else:
            self.nack()


class BatchDelivery(Delivery):
    """Several items, delivered together. `item` is the list of them, `attempt` their highest attempt.

    `ack` and `nack` apply to every item that was not acked or nacked on its own through `deliveries`.
    """

    def __init__(self, deliveries: list[Delivery]) -> None:
        self.deliveries = deliveries
        self.item = [delivery.item for delivery in deliveries]
        self.attempt = max(delivery.attempt for delivery in deliveries)

    def ack(self) -> None:
        for delivery in self.deliveries:
            delivery.ack()

    def nack(self) -> None:
        for delivery in self.deliveries:
            delivery.nack()

    def __len__(self) -> int:
        return len(self.deliveries)


class BaseQueue(abc.ABC):
    """The interface of `multiprocessing.Queue`, with later additions of the standard library and a few more.

    A queue may be passed to a `Process` under fork, forkserver and spawn. Methods may be called from
    several threads.
    """

    @abc.abstractmethod
    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put `obj`, waiting up to `timeout` seconds (None: for ever) while the queue is full.

        Raises `Full` at the bound, `ShutDown` after `shutdown`, `ValueError` after `close`, and any error of
        pickling (`ItemError` where pickle is not trusted) for an item that cannot be serialized. If it
        raises, the item is not in the queue.
        """

    @abc.abstractmethod
    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the next item, waiting up to `timeout` seconds (None: for ever) while there is none.

        Raises `Empty` when no item came in time, `ShutDown` when no item will come any more, `ValueError`
        after `close`.
        """

    @abc.abstractmethod
    def receive(self, block: bool = True, timeout: float | None = None) -> Delivery:
        """Like `get`, but this consumer holds the item until its `Delivery` is acked or nacked."""

    @abc.abstractmethod
    def qsize(self) -> int:
        """The number of items put and not yet taken."""

    @abc.abstractmethod
    def empty(self) -> bool:
        """True if there is no item to take."""

    @abc.abstractmethod
    def full(self) -> bool:
        """True if the queue is bounded and at its bound."""

    @abc.abstractmethod
    def shutdown(self, immediate: bool = False) -> None:
        """Refuse further puts, in every process; gets continue until the queue is empty.

        With `immediate`, the items in the queue are dropped, and gets raise `ShutDown` at once.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Stop using the queue in this process: no more puts and gets. What was put is still sent."""

    @abc.abstractmethod
    def join_thread(self) -> None:
        """After `close`: wait until everything this process put has left it."""

    @abc.abstractmethod
    def cancel_join_thread(self) -> None:
        """Let the process exit without waiting for what it put: items may be lost."""

    @abc.abstractmethod
    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything that this process put before this call would survive its death.

        For a near queue, the items are then in the pipe; for a far queue, the host has them, and also the
        acks sent here. Before that, a `put` that has returned is safe only if the process ends normally, not
        if it is killed.

        Raises `TimeoutError`, which gives the number of items that may not have arrived, after `timeout`
        seconds (None: wait for ever); `QueueLost` if a far queue's host is away for the queue's `wait`
        seconds; and `ValueError` after `close`. Items that did not arrive in time are still sent.
        """

    @abc.abstractmethod
    def promises(self) -> Promises:
        """What this transport guarantees."""

    def put_nowait(self, obj: Any) -> None:
        """``put(obj, block=False)``."""
        self.put(obj, block=False)

    def get_nowait(self) -> Any:
        """``get(block=False)``."""
        return self.get(block=False)

    @abc.abstractmethod
    def put_many(self, items: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        """Put `items` in order, cheaper than one by one. May wait in the middle; `timeout` is for the whole.

        If an item cannot be serialized, this raises before any is put. The first argument of `Full` is the
        number of items put: those are in the queue, the others are not.
        """

    @abc.abstractmethod
    def get_many(self, most: int, block: bool = True, timeout: float | None = None) -> list[Any]:
        """Take at least one and up to `most` items: those that are available, without waiting for more."""

    def __iter__(self) -> Iterator[Any]:
        """Take items until no more will come: after `shutdown`, or at the counted end (`promises`)."""
        while True:
            try:
                yield self.get()
            except ShutDown:
                return

    def batches(self, most: int, least: int = 1, timeout: float | None = None) -> Generator[list[Any]]:
        """Take lists of 1 to `most` items until no more will come, as iteration takes single items.

        A list is returned as soon as `least` items are available, with any others that are available then, up
        to `most`. It has fewer than `least` items at the end, and `timeout` seconds after it was requested
        (None: it waits). If no item came by then, the iterator raises `Empty` and ends.

        The items of a list of a far queue are done when the thread requests its next list or item, as with
        `get`. Iteration ends at the counted end (`promises`), and raises `ProducerLost` if a producer died.

        Raises `ValueError` for a `most` or `least` below 1, or a `least` above `most`.
        """
        _check_sizes(most, least)
        return self._until_end(lambda: self._take_batch(most, least, timeout))

    def receive_batches(
        self, most: int, least: int = 1, timeout: float | None = None
    ) -> Generator[BatchDelivery]:
        """As `batches`, but this consumer holds the items until their `BatchDelivery` is acked or nacked."""
        _check_sizes(most, least)
        return self._until_end(lambda: self._receive_batch(most, least, timeout))

    @abc.abstractmethod
    def _take_batch(self, most: int, least: int, timeout: float | None) -> list[Any]:
        """The next list of `batches`. Raises `Empty`, and `ShutDown` at the end of iteration."""

    @abc.abstractmethod
    def _receive_batch(self, most: int, least: int, timeout: float | None) -> BatchDelivery:
        """The next batch of `receive_batches`. Raises as `_take_batch`."""

    @staticmethod
    def _until_end(take: Callable[[], T]) -> Generator[T]:
        while True:
            try:
                batch = take()
            except ShutDown:
                return
            yield batch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self.join_thread()


def _check_sizes(most: int, least: int) -> None:
    if not 1 <= least <= most:
        raise ValueError(f"a batch has 1 to `most` items, at least `least`: {least} to {most} cannot be")


class BaseJoinableQueue(BaseQueue):
    """A queue whose consumers mark each item as done, as `multiprocessing.JoinableQueue`."""

    @abc.abstractmethod
    def task_done(self) -> None:
        """Mark the oldest open item that this thread (else this process) took as done.

        Raises `ValueError` if there is no such item.
        """

    @abc.abstractmethod
    def join(self) -> None:
        """Wait until every item put has been marked as done."""


class RemoteQueue(BaseQueue):
    """A queue with an address, by which other programs use it as well."""

    @property
    @abc.abstractmethod
    def address(self) -> str:
        """The address at which other processes reach the queue, without a password."""

    @classmethod
    @abc.abstractmethod
    def connect(
        cls,
        address: str,
        *,
        keys: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        wait: float = 60.0,
    ) -> Self:
        """As `QueueFactory.connect`."""

    @abc.abstractmethod
    def counts(self) -> dict[str, int]:
        """The figures of the queue, such as stored, settled, unsettled, size, bytes, dead, late."""

    @abc.abstractmethod
    def dead_letters(self) -> list[tuple[Any, int, tuple[str, ...]]]:
        """The latest items given up after `max_attempts`: (item, attempts, the reason of each failure).

        10,000 of them are kept, or 64 MiB; the oldest are dropped. `counts` counts them all.
        """


class RemoteJoinableQueue(RemoteQueue, BaseJoinableQueue):
    """A `RemoteQueue` whose consumers mark each item as done."""


def waits(block: bool, timeout: float | None) -> bool:
    """Whether a call waits at all: a call with a timeout of 0 does not."""
    return block and (timeout is None or timeout > 0)


def deadline_of(block: bool, timeout: float | None) -> float | None:
    """The moment (`time.monotonic`) at which a call gives up: None for never, 0 for at once."""
    if not block:
        return 0.0
    return None if timeout is None else time.monotonic() + timeout


def left(deadline: float | None, most: float | None = None) -> float | None:
    """Seconds until `deadline`, at least 0 and at most `most`; None for no limit."""
    if deadline is None:
        return most
    seconds = max(0.0, deadline - time.monotonic())
    return seconds if most is None else min(seconds, most)
