"""Queues between the processes of one machine: thin skins over `multiprocessing`'s own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from multiprocessing import queues
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Semaphore
from typing import Any, TypeVar

from nearfar.errors import Full
from nearfar.queues.base import BaseJoinableQueue, BaseQueue, BatchDelivery, Delivery, Promises
from nearfar.queues.deadlines import deadline_of
from nearfar.queues.frames import Message
from nearfar.queues.parcels import NearDelivery, Parcel, item_in, message_of
from nearfar.queues.piped import DROPPED, SHUT, PipedQueue

__all__ = ["NearJoinableQueue", "NearQueue"]

T = TypeVar("T")


class NearQueue(PipedQueue, BaseQueue):
    """`multiprocessing.Queue` with `BaseQueue`'s additions. Children inherit it; nobody can connect to it.

    `maxsize` counts items (0 or less: no bound). `ctx` is a context of `multiprocessing` (None: the default
    one), the one that starts the processes.

    An item is pickled in `put`: one that cannot be raises there, where the standard prints a traceback and
    loses it, and a change made to an item after `put` does not travel. `bytes` of 4 KiB or more are not
    pickled, and not copied until they are written into the pipe.

    Not promised, as by the standard: an item that a killed consumer held is gone. A consumer killed inside
    `get` may stall all others for ever, because it held the reader lock. A producer killed before its feeder
    thread had sent everything leaves items counted that never arrive, for which takers wait even after
    `shutdown`; killed in the middle of a message, it stalls takers, other producers and `shutdown` as well.
    A producer that is killed loses what it has put and not yet written into the pipe: the last few items of
    many that it put at once, all that the pipe has no room for, and nothing that it put before a `flush`.
    `qsize`, and with it the end, needs a semaphore that tells its value: not on macOS.
    """

    def __init__(self, maxsize: int = 0, *, ctx: BaseContext | None = None) -> None:
        super().__init__(maxsize, ctx)

    def __repr__(self) -> str:
        bound = f" of {self._maxsize}" if self._bounded else ""
        return f"<{type(self).__name__} {self.qsize()}{bound} items{self._state()}>"

    def _state(self) -> str:
        return (", shut down" if self._stage.get_value() else "") + (", closed" if self._closed else "")

    def fileno(self) -> int:
        """A descriptor for `multiprocessing.connection.wait`: readable when there may be an item to get."""
        return self._reader.fileno()

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        self._check_open()
        message = message_of(obj)
        self._claim(block, deadline_of(block, timeout))
        self._send(message)

    def put_many(self, items: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        """As `BaseQueue.put_many`. Each item has its own slot and message; they travel together."""
        self._check_open()
        messages = [message_of(item) for item in items]
        deadline = deadline_of(block, timeout)
        sent = 0
        claimed: list[Message] = []
        try:
            for message in messages:
                try:
                    self._claim(False, 0.0)
                except Full:
                    sent += len(claimed)
                    self._send(*claimed)
                    claimed = []
                    self._claim(block, deadline)
                claimed.append(message)
        except Full:
            raise Full(sent) from None
        finally:
            if claimed:
                self._send(*claimed)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return item_in(self._take(deadline_of(block, timeout)))

    def get_many(self, most: int, block: bool = True, timeout: float | None = None) -> list[Any]:
        """As `BaseQueue.get_many`. Raises `ValueError` if `most` is below 1."""
        if most < 1:
            raise ValueError(f"most must be at least 1, not {most}")
        return self._items_in(self._take_many(most, deadline_of(block, timeout)), item_in)

    def receive(self, block: bool = True, timeout: float | None = None) -> Delivery:
        """As `BaseQueue.receive`. Until the ack nobody else knows of the item."""
        parcel = Parcel.open(self._take(deadline_of(block, timeout)))
        return NearDelivery(parcel, self._settle, self._give_back)

    def _take_batch(self, most: int, least: int, timeout: float | None) -> list[Any]:
        return self._items_in(self._take_batched(most, least, deadline_of(True, timeout)), item_in)

    def _receive_batch(self, most: int, least: int, timeout: float | None) -> BatchDelivery:
        parcels = self._items_in(self._take_batched(most, least, deadline_of(True, timeout)), Parcel.open)
        return BatchDelivery([NearDelivery(parcel, self._settle, self._give_back) for parcel in parcels])

    def _items_in(self, messages: list[Message], read: Callable[[Message], T]) -> list[T]:
        """What `read` finds in `messages`. What cannot be read raises by itself, now or in a later call."""
        found = []
        unreadable = []
        for message in messages:
            try:
                found.append(read(message))
            except Exception as error:
                unreadable.append((message, error))
        first = None if found else unreadable.pop(0)[1]
        for message, _ in unreadable:
            self._give_back(message)  # those in hand must not be lost with it
        if first is not None:
            raise first
        return found

    def empty(self) -> bool:
        """As `BaseQueue.empty`. What a feeder thread has to send counts, though no `get` sees it yet."""
        return self.qsize() == 0

    def full(self) -> bool:
        return self._sem.get_value() == 0

    def shutdown(self, immediate: bool = False) -> None:
        """As `BaseQueue.shutdown`. With `immediate` it waits for what feeder threads have still to send.

        Raises `ValueError` after `close`.
        """
        self._check_open()
        self._end(DROPPED if immediate else SHUT)
        if immediate:
            self._drop_waiting()

    def flush(self, timeout: float | None = None) -> None:
        self._check_open()
        if missing := self._outbox.flush(deadline_of(True, timeout)):
            raise TimeoutError(
                f"{missing} of the items put here are not in the pipe after {timeout:g} s: it is full, and"
                " nobody takes items, or not fast enough"
            )

    def promises(self) -> Promises:
        return Promises(transport="near")


class NearJoinableQueue(NearQueue, queues.JoinableQueue, BaseJoinableQueue):  # type: ignore[type-arg,misc]
    """`multiprocessing.JoinableQueue` with `BaseQueue`'s additions.

    As by the standard, `task_done` counts over all processes and does not ask who took the item.
    """

    _unfinished_tasks: Semaphore

    def _state(self) -> str:
        return f", {self._unfinished_tasks.get_value()} unfinished{super()._state()}"

    def _claim(self, block: bool, deadline: float | None) -> None:
        super()._claim(block, deadline)
        self._unfinished_tasks.release()

    def _settle(self) -> None:
        self.task_done()
