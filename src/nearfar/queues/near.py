"""Queues between the processes of one machine, over `multiprocessing`'s own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from multiprocessing import queues
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Semaphore
from typing import Any, NamedTuple, Self, TypeVar

from nearfar.errors import Full
from nearfar.queues.base import BaseJoinableQueue, BaseQueue, BatchDelivery, Delivery, Promises, deadline_of
from nearfar.queues.framing import Message, Raw
from nearfar.queues.pipe import DROPPED, SHUT, PipedQueue
from nearfar.serialization.pickles import pickler

__all__ = ["NearDelivery", "NearJoinableQueue", "NearMessage", "NearQueue", "item_in", "message_of"]


LARGE = 4096
"""Bytes from which a `bytes` item is sent as it is: a pickle would be one more copy on each side."""


class _Redelivery(NamedTuple):
    """The envelope of an item that was given back: its original message, and its next attempt."""

    message: Message
    attempt: int


class NearMessage(NamedTuple):
    """A message that was read: its item, the attempt, and the message itself."""

    item: Any
    attempt: int
    message: Message

    @classmethod
    def open(cls, message: Message) -> Self:
        """Read `message`. Raises what unpickling its item raises."""
        item = _read(message)
        if type(item) is _Redelivery:
            return cls(_read(item.message), item.attempt, item.message)
        return cls(item, 1, message)

    def again(self) -> bytes:
        """The message for the next attempt. The item is not pickled again, so this cannot fail."""
        return pickler.dumps_for_family(_Redelivery(self.message, self.attempt + 1))


def message_of(item: Any) -> Message:
    """The message for `item` in its present state. Raises what pickling it raises."""
    if type(item) is bytes and len(item) >= LARGE:
        return Raw(item)
    return pickler.dumps_for_family(item)


def item_in(message: Message) -> Any:
    """As `NearMessage.open`, but returns only the item."""
    item = _read(message)
    return _read(item.message) if type(item) is _Redelivery else item


def _read(message: Message) -> Any:
    return message.body if isinstance(message, Raw) else pickler.loads(message)


class NearDelivery(Delivery):
    """A delivery of a near queue: calls `settle` or `give_back` at most once."""

    def __init__(
        self, near_message: NearMessage, settle: Callable[[], None], give_back: Callable[[Message], None]
    ) -> None:
        self.item = near_message.item
        self.attempt = near_message.attempt
        self._settle = settle
        self._give_back = give_back
        self._near_message: NearMessage | None = near_message

    def ack(self) -> None:
        if self._let_go():
            self._settle()

    def nack(self) -> None:
        if near_message := self._let_go():
            self._give_back(near_message.again())

    def _let_go(self) -> NearMessage | None:
        near_message, self._near_message = self._near_message, None
        return near_message


T = TypeVar("T")


class NearQueue(PipedQueue, BaseQueue):
    """`multiprocessing.Queue` with `BaseQueue`'s additions. Children inherit it; others cannot connect to it.

    `maxsize` counts items (0 or less: no bound). `ctx` is a context of `multiprocessing` (None: the default
    one): the one that starts the processes.

    An item is pickled in `put`: if that fails, `put` raises, where the standard library prints a traceback
    and loses the item; and a change made to an item after `put` is not sent. `bytes` of 4 KiB or more are not
    pickled, and not copied until they are written into the pipe.

    Not guaranteed, as in the standard library: an item that a killed consumer held is lost. A consumer killed
    inside `get` may block all others for ever, because it held the reader lock. A producer killed before its
    feeder thread had sent everything leaves items counted that never arrive, for which consumers wait even
    after `shutdown`; killed in the middle of a message, it blocks consumers, other producers and `shutdown`
    as well. A killed producer loses what it put and had not yet written into the pipe: the last few of many
    items that it put at once, and all that the pipe has no room for, but nothing that it put before a
    `flush`. `qsize`, and with it the end, needs a semaphore with a readable value: not on macOS.
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
        """As `BaseQueue.receive`. Before the ack, the item is lost if this process dies."""
        near_message = NearMessage.open(self._take(deadline_of(block, timeout)))
        return NearDelivery(near_message, self._settle, self._give_back)

    def _take_batch(self, most: int, least: int, timeout: float | None) -> list[Any]:
        return self._items_in(self._take_batched(most, least, deadline_of(True, timeout)), item_in)

    def _receive_batch(self, most: int, least: int, timeout: float | None) -> BatchDelivery:
        near_messages = self._items_in(
            self._take_batched(most, least, deadline_of(True, timeout)), NearMessage.open
        )
        return BatchDelivery(
            [NearDelivery(near_message, self._settle, self._give_back) for near_message in near_messages]
        )

    def _items_in(self, messages: list[Message], read: Callable[[Message], T]) -> list[T]:
        """What `read` returns for `messages`. An unreadable one raises alone, now or in a later call."""
        found = []
        unreadable = []
        for message in messages:
            try:
                found.append(read(message))
            except Exception as error:
                unreadable.append((message, error))
        first = None if found else unreadable.pop(0)[1]
        for message, _ in unreadable:
            self._give_back(message)  # the readable ones must not be lost with it
        if first is not None:
            raise first
        return found

    def empty(self) -> bool:
        """As `BaseQueue.empty`. Items that a feeder thread has still to send count, though no `get` can take
        them yet."""
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
                " no process takes items, or not fast enough"
            )

    def promises(self) -> Promises:
        return Promises(transport="near")


class NearJoinableQueue(NearQueue, queues.JoinableQueue, BaseJoinableQueue):  # type: ignore[type-arg,misc]
    """`multiprocessing.JoinableQueue` with `BaseQueue`'s additions.

    As in the standard library, `task_done` counts over all processes, no matter which one took the item.
    """

    _unfinished_tasks: Semaphore

    def _state(self) -> str:
        return f", {self._unfinished_tasks.get_value()} unfinished{super()._state()}"

    def _claim(self, block: bool, deadline: float | None) -> None:
        super()._claim(block, deadline)
        self._unfinished_tasks.release()

    def _settle(self) -> None:
        self.task_done()
