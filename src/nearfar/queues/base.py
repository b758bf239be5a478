"""What every queue offers, near or far."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Iterable, Iterator
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
    "ShutDown",
    "deadline_of",
    "left",
    "waits",
]


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Promises:
    """What a transport guarantees. Data, so that a program can ask before it relies on something.

    The fields differ between transports; the methods of a queue never do.
    """

    transport: str
    """``"near"``, ``"ipc"`` or ``"tcp"``."""
    bounded: bool = True
    """`maxsize` is exact, over all processes."""
    fifo: bool = True
    """The items of one producer come out in the order they went in (one that was redelivered, or that another
    consumer gave back unused, may come later)."""
    crosses_machines: bool = False
    redelivers: bool = False
    """An item that a killed or frozen consumer held reaches another one."""
    survives_killed_consumer: bool = False
    """A consumer killed at any point, even inside `get`, never stalls the others."""
    survives_killed_host: bool = False
    """What live producers put is sent again to a host that returns at the same address."""
    counts_end: bool = False
    """Iteration ends by itself once every producer said goodbye; otherwise someone calls `shutdown`."""
    dead_letters: bool = False
    """An item that keeps failing is put aside with its history instead of going round."""


class Delivery(abc.ABC):
    """One item in hand, until `ack` says it is done or `nack` gives it back.

    Leaving a ``with`` block acks, or nacks when the block raised.
    """

    item: Any
    attempt: int
    """1 the first time; more when an earlier consumer may already have seen the item."""

    @abc.abstractmethod
    def ack(self) -> None:
        """Say that the item is done. A second call does nothing.

        Does not wait, and does not promise that the ack was in time: the ack of a superseded
        attempt is refused and counted by the host.
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
    """Several items in hand. `item` is the list of them, `attempt` the highest of theirs.

    `ack` and `nack` concern all that were not acked or nacked by themselves, as one of `deliveries`.
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
    """`multiprocessing.Queue`'s interface, with what the standard library grew since, and a little more.

    A queue may be passed to a `Process` under fork, forkserver and spawn. Methods may be called from
    several threads.
    """

    @abc.abstractmethod
    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put `obj`, waiting up to `timeout` seconds (None: for ever) while the queue is full.

        Raises `Full` at the bound, `ShutDown` after `shutdown`, `ValueError` after `close`, and whatever
        pickling raises (`ItemError` where pickle is not trusted) for an item that cannot travel; a raise
        means that the item is not in the queue.
        """

    @abc.abstractmethod
    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the next item, waiting up to `timeout` seconds (None: for ever) while there is none.

        Raises `Empty` when there was none in time, `ShutDown` when there will be none, `ValueError` after
        `close`.
        """

    @abc.abstractmethod
    def receive(self, block: bool = True, timeout: float | None = None) -> Delivery:
        """Like `get`, but the item stays this consumer's until its `Delivery` is acked or nacked."""

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
        """Refuse further puts, in every process; gets go on until the queue is empty.

        With `immediate`, what is in the queue is dropped, and gets raise `ShutDown` at once.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Say that this process will neither put nor get again. What it put is still sent."""

    @abc.abstractmethod
    def join_thread(self) -> None:
        """After `close`: wait until everything this process put has left it."""

    @abc.abstractmethod
    def cancel_join_thread(self) -> None:
        """Let the process exit without waiting for what it put: items may be lost."""

    @abc.abstractmethod
    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that this process put before this call is safe from its death.

        Near, it is in the pipe then; far, the host has it, and what was acked here as well. Until then a
        `put` that has returned is a promise of this process alone: it holds if the process ends normally, and
        not if it is killed.

        Raises `TimeoutError`, which says how many items may not be there, after `timeout` seconds (None:
        wait for ever); `QueueLost` where a far queue's host is away for the queue's `wait` seconds; and
        `ValueError` after `close`. What was not there in time is sent all the same.
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

        An item that cannot travel raises before any is put. `Full` carries how many went in as its
        first argument: those are in the queue, the others are not.
        """

    @abc.abstractmethod
    def get_many(self, most: int, block: bool = True, timeout: float | None = None) -> list[Any]:
        """Take at least one and up to `most` items: those that are there, without waiting for more."""

    def __iter__(self) -> Iterator[Any]:
        """Take items until there will be none: after `shutdown`, or at the counted end (`promises`)."""
        while True:
            try:
                yield self.get()
            except ShutDown:
                return

    def batches(self, most: int, least: int = 1, timeout: float | None = None) -> Iterator[list[Any]]:
        """Take lists of 1 to `most` items until there will be none, as iteration takes single items.

        A list comes as soon as `least` items are there, with the others that lie there by then, up to `most`.
        It comes with fewer than `least` at the end, and `timeout` seconds after it was asked for (None: it
        waits). If there was no item at all by then, the iterator raises `Empty` and is over.

        Of a far queue, the items of a list are done when the thread asks for its next list or item, as with
        `get`; the end is the counted one (`promises`), and `ProducerLost` is raised where a producer died.

        Raises `ValueError` for a `most` or `least` below 1, or a `least` above `most`.
        """
        _check_sizes(most, least)
        return self._until_end(lambda: self._take_batch(most, least, timeout))

    def receive_batches(
        self, most: int, least: int = 1, timeout: float | None = None
    ) -> Iterator[BatchDelivery]:
        """As `batches`, but the items stay this consumer's until their `BatchDelivery` is acked or nacked."""
        _check_sizes(most, least)
        return self._until_end(lambda: self._receive_batch(most, least, timeout))

    @abc.abstractmethod
    def _take_batch(self, most: int, least: int, timeout: float | None) -> list[Any]:
        """The next list of `batches`. Raises `Empty`, and `ShutDown` at the end of iteration."""

    @abc.abstractmethod
    def _receive_batch(self, most: int, least: int, timeout: float | None) -> BatchDelivery:
        """The same, of `receive_batches`."""

    @staticmethod
    def _until_end(take: Callable[[], T]) -> Iterator[T]:
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
    """A queue whose consumers say when each item is done, as `multiprocessing.JoinableQueue`."""

    @abc.abstractmethod
    def task_done(self) -> None:
        """Say that the oldest item this thread (else this process) took is done.

        Raises `ValueError` when it took none that is still open.
        """

    @abc.abstractmethod
    def join(self) -> None:
        """Wait until every item put was said to be done."""


def waits(block: bool, timeout: float | None) -> bool:
    """Whether a call waits at all: one with no time to wait is one that does not block."""
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
