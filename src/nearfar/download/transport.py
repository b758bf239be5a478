"""The transport between producers and consumers: messages and their answers over a near or a far queue.

A `RequestSender` sends messages and receives one answer to each; a `RequestReceiver` receives messages and
answers them. Both carry msgpack types and tuples; `nearfar.download.messages` gives them a meaning.

Far, they use a far queue. Between the processes of one command, they use near queues::

    producer 0 --+                        +-- consumer 0
                 +--> requests (shared) --+                  for any consumer: an idle one takes it
    producer 1 --+                        +-- consumer 1
                 +--> one queue for each consumer            for this consumer only
    each producer's own answers  <--------+

The bytes of files do not travel in near queues, which would copy them four times (into a pickle, into a pipe,
out of the pipe, out of the pickle). They lie in the producer's `Arena`, in shared memory, written once and
read in place. Near, nothing is redelivered: the parent watches the processes, and restarts them when one dies
(`nearfar.download.local`). The queues are unbounded, since producers limit the bytes that are in flight.
"""

from __future__ import annotations

import math
import mmap
import os
import select
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import DupFd
from threading import Thread
from typing import Any, Protocol

from nearfar.download.model import Underway
from nearfar.errors import Empty, QueueLost, ShutDown
from nearfar.net.addresses import Address
from nearfar.net.auth import Access, approach
from nearfar.queues.broker.records import Settlement
from nearfar.queues.client.client import DELIVERY, QueueClient
from nearfar.queues.client.consumer import DeliveredItem
from nearfar.queues.far import FarQueue
from nearfar.queues.near import NearQueue
from nearfar.serialization import item_codec
from nearfar.serialization.shared_memory import Ring, allowed, create, map_shared


@dataclass(frozen=True, slots=True)
class Undeliverable:
    """The answer to a message whose addressee was gone, or died with it in hand."""

    to: str


class RequestSender(Protocol):
    """The producer's end. One thread uses it; `on_event` is called from any."""

    on_event: Callable[[], None]
    """Called when there may be new answers, new stores, or room again. Must be quick and never raise."""

    def send(self, message: Any, *, to: str | None = None) -> int | None:
        """Send to any consumer, or only to the one called `to` (a consumer's `name`, or a store's id,
        which any consumer of that store may take). Never waits.

        Returns the message's ticket, or None when there is no room now. `message` is the transport's from
        then on: it may take it apart.

        A message to any consumer is delivered again if its consumer dies, and so may be seen
        twice; one to an addressee who dies is answered by `Undeliverable`.
        """

    def answers(self) -> list[tuple[int, Any]]:
        """The answers that arrived since the last call, as (ticket, answer), each ticket once."""

    def stores(self) -> frozenset[str]:
        """The ids of the stores whose consumers are there now."""

    def close(self, timeout: float | None) -> None:
        """Say goodbye. Raises `QueueLost` when what was sent cannot be handed over in `timeout` seconds."""


class IncomingRequest(Protocol):
    """One message in the consumer's hands."""

    message: Any
    """Its bytes may be views, good until the answer."""
    attempt: int

    def answer(self, value: Any = None) -> None:
        """Say that the message is done with, and what came of it. Until then it is redelivered if we die."""


class RequestReceiver(Protocol):
    """The consumer's end. One thread uses it."""

    name: str
    """What a producer passes as `to` to reach just this consumer."""

    def receive(self, timeout: float | None) -> IncomingRequest | None:
        """The next message, or None when none came within `timeout` seconds.

        Raises `ShutDown` at the end: every producer said goodbye and every message but those in this
        consumer's own hands is answered. Raises `ProducerLost` at the end if a producer died before.
        """

    def close(self, timeout: float | None) -> None:
        """Send the last answers and leave. Messages in hand and not answered go to another consumer."""


MOST_QUEUED = 32 * 1024 * 1024
"""Bytes that may lie in the queue."""


PARTS = 1_000_000
"""Of a file: what is told of those that have come in part."""


class FarRequestSender(RequestSender):
    """A producer's end; each message is one item, and its ticket the item's number."""

    def __init__(
        self, address: Address, access: Access, wait: float, host: FarQueue | None, *, helper: bool = False
    ) -> None:
        self.on_event: Callable[[], None] = _nothing
        self._host = host
        self._address = address
        self._end = QueueClient(
            address.seen_from_here(), access, wait=wait, helper=helper, on_change=lambda: self.on_event()
        )
        self._to: dict[int, str] = {}
        self._last_entry: Any = None
        self._sent = 0

    def reach(self, timeout: float) -> bool:
        """Whether a host has answered, after up to `timeout` seconds. Raises `QueueLost`."""
        return self._end.reach(timeout)

    def attend(self) -> None:
        """Be counted as a producer from now on, before anything is sent. Raises `QueueLost`."""
        self._end.attend()

    def send(self, message: Any, *, to: str | None = None) -> int | None:
        if self._last_entry is not None and not self._last_entry.admitted:
            return None
        self._last_entry = self._end.post(message, to)
        self._sent += 1
        if to is not None:
            self._to[self._sent] = to
        return self._sent

    def answers(self) -> list[tuple[int, Any]]:
        answers: list[tuple[int, Any]] = []
        for settled in self._end.outcomes():
            for ticket in range(settled.first, settled.first + settled.count):
                to = self._to.pop(ticket, "")
                if settled.outcome == Settlement.ANSWERED and settled.answer is not None:
                    answers.append((ticket, item_codec.decode(settled.answer, 1, trusted=False)[0]))
                else:
                    answers.append((ticket, Undeliverable(to)))
        return answers

    def stores(self) -> frozenset[str]:
        return self._end.tags()

    def tell_underway(self, underway: Underway) -> None:
        """Have the host know what has come that was not put yet, or not answered. Never waits."""
        self._end.mention("underway bytes", underway.size)
        self._end.mention("underway parts", int(underway.files * PARTS))

    def underway(self) -> tuple[int, float]:
        """Bytes and files that all producers have told so, by the last word of the host. Never waits."""
        counts = self._end.glimpse_counts()
        return counts.get("underway bytes", 0), counts.get("underway parts", 0) / PARTS

    @property
    def address(self) -> str:
        """Where consumers and other producers find the queue, its port never ``*``."""
        return str(self._address)

    def close(self, timeout: float | None) -> None:
        self._end.close()
        try:
            self._end.join(timeout)
        finally:
            if self._host is not None:
                self._host.stop_hosting()


class FarIncomingRequest(IncomingRequest):
    """A message in hand."""

    def __init__(self, end: QueueClient, taken: DeliveredItem) -> None:
        self.message = taken.item
        self.attempt = taken.attempt
        self._end = end
        self._session = taken.session
        self._position = taken.position

    def answer(self, value: Any = None) -> None:
        self._end.done(self._session, self._position, item_codec.encode(value, trusted=False))


class FarRequestReceiver(RequestReceiver):
    """A consumer's end, which may be addressed by its name and by its store's id."""

    def __init__(
        self, address: Address, access: Access, wait: float, host: FarQueue | None, store: str
    ) -> None:
        self._host = host
        self._address = address
        self._end = QueueClient(address.seen_from_here(), access, wait=wait, tags=(store,))

    def reach(self, timeout: float) -> bool:
        """Whether a host has answered, after up to `timeout` seconds. Raises `QueueLost`."""
        return self._end.reach(timeout)

    @property
    def name(self) -> str:  # type: ignore[override]
        """New in every session: what was sent to an earlier one has been answered for us."""
        return self._end.session_name()

    @property
    def address(self) -> str:
        """Where producers and other consumers find the queue, its port never ``*``."""
        return str(self._address)

    def receive(self, timeout: float | None) -> FarIncomingRequest | None:
        try:
            taken = self._end.take(1, DELIVERY, block=timeout != 0, timeout=timeout, to_the_end=True)[0]
        except Empty:
            return None
        return FarIncomingRequest(self._end, taken)

    def close(self, timeout: float | None) -> None:
        self._end.close()
        try:
            self._end.join(timeout)
        except QueueLost:
            if self._host is None:
                raise
        finally:
            if self._host is not None:
                self._host.stop_hosting()


def open_outbound(
    address: str,
    *,
    bind: bool = False,
    lanes: str | None = None,
    keys: str | None = None,
    insecure: bool = False,
    wait: float = 60.0,
    helper: bool = False,
) -> FarRequestSender:
    """A producer's end of the queue at `address`, hosting it if `bind`.

    A `helper` is not counted as a producer: it works for one that stays there for as long.

    Raises `AddressError`, `KeysError`; what is returned raises `QueueLost` once the host is away for `wait`
    seconds, and `NotAdmitted`.
    """
    host = _host(address, lanes, keys, insecure, 1) if bind else None
    place, access = _reach(address, host, keys, insecure)
    return FarRequestSender(place, access, wait, host, helper=helper)


def open_inbound(
    address: str,
    *,
    store: str,
    bind: bool = False,
    lanes: str | None = None,
    keys: str | None = None,
    insecure: bool = False,
    wait: float = 60.0,
    producers: int = 1,
) -> FarRequestReceiver:
    """A consumer's end, for the store with the id `store`; as host it expects `producers` producers.

    Raises as `open_outbound`.
    """
    host = _host(address, lanes, keys, insecure, producers) if bind else None
    place, access = _reach(address, host, keys, insecure)
    return FarRequestReceiver(place, access, wait, host, store)


def _host(address: str, lanes: str | None, keys: str | None, insecure: bool, producers: int) -> FarQueue:
    return FarQueue(
        0,
        address,
        maxbytes=MOST_QUEUED,
        lanes=lanes,
        keys=keys,
        insecure=insecure,
        producers=producers,
        lease=10.0,
    )


def _reach(address: str, host: FarQueue | None, keys: str | None, insecure: bool) -> tuple[Address, Access]:
    place = Address.parse_remote(address if host is None else host.address)
    return place, approach(place, keys, insecure=insecure)


def _nothing() -> None:
    """Does nothing, until a callback is set."""


SIZE = 24 * 1024 * 1024
"""Bytes: what a producer has on its way at most, and some room for the gaps at the end."""
LEAST = 4096
"""Bytes below which to share a piece costs more than to copy it."""

Place = tuple[int, int, int]
"""Which part of a message, and from where to where its bytes lie."""


class Arena:
    """Shared memory of one producer and all consumers, inherited by them. Only the producer writes.

    It is as large as ``ulimit -f`` lets a file be, at most: what has no room in it is copied.
    """

    def __init__(self, size: int = SIZE) -> None:
        self._size = allowed(size)
        self._descriptor = create(self._size)
        self._map: mmap.mmap | None = None
        self._view = memoryview(b"")
        self._ring = Ring(self._size)

    def __getstate__(self) -> tuple[int, Any]:
        return self._size, DupFd(self._descriptor)

    def __setstate__(self, state: tuple[int, Any]) -> None:
        self._size, given = state
        self._descriptor = given.detach()
        self._map, self._view, self._ring = None, memoryview(b""), Ring(self._size)

    def lay_out(self, message: list[Any]) -> tuple[list[Place], int | None]:
        """Move the bytes of `message`, its own and the last field of each of its rows, to this memory.

        Returns where they are, and what to give back later. Where there is no room, nothing is moved.
        """
        parts = [(index, _bytes_of(part)) for index, part in enumerate(message)]
        found = [(index, data) for index, data in parts if data is not None]
        total = sum(len(data) for _, data in found)
        start = self._ring.take(total) if total else None
        if start is None:
            return [], None
        view, at, places = self._bytes(), start, list[Place]()
        for index, data in found:
            end = at + len(data)
            view[at:end] = data
            places.append((index, at, end))
            _put(message, index, None)
            at = end
        return places, start

    def give_back(self, start: int) -> None:
        """Release what `lay_out` moved to `start`: no process reads it any more."""
        self._ring.give_back(start)

    def fill_in(self, message: list[Any], places: list[Place]) -> None:
        """Put views of the bytes where `lay_out` took them; good until the producer knows of the answer."""
        view = self._bytes() if places else self._view
        for index, start, end in places:
            _put(message, index, view[start:end])

    def close(self) -> None:
        """Let go of the memory, here. Views of it stay good."""
        self._view = memoryview(b"")
        if self._map is not None:
            with suppress(BufferError):
                self._map.close()
            self._map = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _bytes(self) -> memoryview:
        if self._map is None:
            self._map = map_shared(self._descriptor, self._size)
            self._view = memoryview(self._map)
        return self._view


def _bytes_of(part: Any) -> bytes | None:
    if type(part) is list and part:
        part = part[-1]
    return part if type(part) is bytes and len(part) >= LEAST else None


def _put(message: list[Any], index: int, value: Any) -> None:
    part = message[index]
    if type(part) is list:
        part[-1] = value
    else:
        message[index] = value


HERE = frozenset({"here"})
"""All consumers of one command share one store."""
_LOCKED = 0.005
"""Seconds to wait for a message that may have gone to another consumer."""


@dataclass(frozen=True, slots=True)
class Routes:
    """The queues of one command, inherited by all its processes."""

    parcels: NearQueue
    private: dict[str, NearQueue]
    """By the consumer's name."""
    answers: Sequence[NearQueue]
    """By the producer's number."""
    arenas: Sequence[Arena]
    """As well."""

    def close(self) -> None:
        for queue in (self.parcels, *self.private.values(), *self.answers):
            queue.close()
        for arena in self.arenas:
            arena.close()


class NearRequestSender:
    """A producer's end. A second thread waits for answers: no thread can wait for a queue and the network."""

    def __init__(self, routes: Routes, number: int) -> None:
        self.on_event: Callable[[], None] = lambda: None
        self._routes = routes
        self._number = number
        self._sent = 0
        self._arena = routes.arenas[number]
        self._places: dict[int, int] = {}
        """What to give back to the arena, by the ticket of what is there."""
        self._arrived: deque[tuple[int, Any]] = deque()
        self._thread = Thread(target=self._listen, name="answers", daemon=True)
        self._thread.start()

    def send(self, message: Any, *, to: str | None = None) -> int:
        self._sent += 1
        queue = self._routes.parcels if to is None or to in HERE else self._routes.private[to]
        places, start = self._arena.lay_out(message)
        if start is not None:
            self._places[self._sent] = start
        queue.put((self._number, self._sent, message, places))
        return self._sent

    def answers(self) -> list[tuple[int, Any]]:
        arrived = self._arrived
        answers = [arrived.popleft() for _ in range(len(arrived))]
        for ticket, _ in answers:
            start = self._places.pop(ticket, None)
            if start is not None:
                self._arena.give_back(start)
        return answers

    def stores(self) -> frozenset[str]:
        return HERE

    def close(self, timeout: float | None) -> None:
        """Wait until all that was sent is in the pipes. The consumers are known to be there: no `timeout`."""
        self._routes.answers[self._number].put(None)
        self._thread.join(timeout)
        self._routes.close()
        for queue in (self._routes.parcels, *self._routes.private.values()):
            queue.join_thread()

    def _listen(self) -> None:
        while (answer := self._routes.answers[self._number].get()) is not None:
            self._arrived.append(answer)
            self.on_event()


class NearIncomingRequest:
    """A message in hand."""

    attempt = 1

    def __init__(self, answers: NearQueue, ticket: int, message: Any) -> None:
        self.message = message
        self._answers = answers
        self._ticket = ticket

    def answer(self, value: Any = None) -> None:
        self._answers.put((self._ticket, value))


class NearRequestReceiver:
    """A consumer's end. Anything on `control`, or its end, is the end of the work."""

    def __init__(self, routes: Routes, name: str, control: Connection[Any, Any]) -> None:
        self.name = name
        self._routes = routes
        self._queues = {queue.fileno(): queue for queue in (routes.private[name], routes.parcels)}
        self._control = control.fileno()
        # Kept: `multiprocessing.connection.wait` makes one of its own for each message.
        self._poller = select.poll()
        for descriptor in (*self._queues, self._control):
            self._poller.register(descriptor, select.POLLIN)

    def receive(self, timeout: float | None) -> NearIncomingRequest | None:
        ready = dict(self._poller.poll(None if timeout is None else math.ceil(timeout * 1000)))
        for descriptor, queue in self._queues.items():
            if descriptor in ready:
                try:
                    producer, ticket, message, places = queue.get(timeout=_LOCKED)
                except Empty:
                    continue
                self._routes.arenas[producer].fill_in(message, places)
                return NearIncomingRequest(self._routes.answers[producer], ticket, message)
        if self._control in ready:
            raise ShutDown
        return None

    def close(self, timeout: float | None) -> None:
        """Leave. No answer is waited for: the producers were gone before the end was said."""
        self._routes.close()
        for queue in self._routes.answers:
            queue.cancel_join_thread()
