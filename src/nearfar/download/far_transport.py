"""The transport over a far queue: messages are items, and answers are sent with their acknowledgement."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nearfar.download.fetch.base import HostLimits
from nearfar.download.messages import long_bodies
from nearfar.download.model import Underway
from nearfar.download.transport import (
    Endpoint,
    IncomingRequest,
    RemoteReceiver,
    RemoteSender,
    RemoteTransport,
    Undeliverable,
)
from nearfar.errors import Empty, ItemError, ProtocolError, QueueLost, Untrusted
from nearfar.net.addresses import Address
from nearfar.net.auth import Access, approach
from nearfar.queues.broker.records import Settlement
from nearfar.queues.client.client import QueueClient
from nearfar.queues.client.deliveries import DeliveredItem
from nearfar.queues.client.takes import DELIVERY
from nearfar.queues.far import FarQueue
from nearfar.serialization import item_codec

if TYPE_CHECKING:
    from nearfar.dashboard.model import QueueStatus

MOST_QUEUED = 32 * 1024 * 1024
"""Bytes that the queue may hold."""


PARTS = 1_000_000
"""Partial files are reported to the host in units of 1/`PARTS` file."""


class FarRequestSender(RemoteSender):
    """A producer's side; each message is one item, and its ticket is the item's number."""

    def __init__(
        self, address: Address, access: Access, wait: float, host: FarQueue | None, *, helper: bool = False
    ) -> None:
        self.on_event: Callable[[], None] = _nothing
        self._host = host
        self._address = address
        self._end = QueueClient(
            address.seen_from_here(), access, wait=wait, helper=helper, on_change=lambda: self.on_event()
        )
        self.limits: HostLimits | None = self._end.limits
        """Of hosts, shared by all producers of the queue."""
        self._to: dict[int, str] = {}
        self._last_entry: Any = None
        self._sent = 0

    def reach(self, timeout: float) -> bool:
        """Whether a host has answered within `timeout` seconds. Raises `QueueLost`."""
        return self._end.reach(timeout)

    def attend(self) -> None:
        """Register as a producer, before anything is sent. Raises `QueueLost`."""
        self._end.puts.attend()

    def send(self, message: Any, *, to: str | None = None) -> int | None:
        if self._last_entry is not None and not self._last_entry.admitted:
            return None
        self._last_entry = self._end.puts.post(framed(message), to)
        self._sent += 1
        if to is not None:
            self._to[self._sent] = to
        return self._sent

    def answers(self) -> list[tuple[int, Any]]:
        answers: list[tuple[int, Any]] = []
        for settled in self._end.puts.outcomes():
            for ticket in range(settled.first, settled.first + settled.count):
                to = self._to.pop(ticket, "")
                if settled.outcome == Settlement.ANSWERED and settled.answer is not None:
                    answers.append((ticket, item_codec.decode(settled.answer, 1, trusted=False)[0]))
                else:
                    answers.append((ticket, Undeliverable(to)))
        return answers

    def stores(self) -> frozenset[str]:
        return self._end.puts.tags()

    def tell_underway(self, underway: Underway) -> None:
        """Report to the host the progress of files that were not put yet, or not answered. Never waits."""
        self._end.mention("underway bytes", underway.size)
        self._end.mention("underway parts", int(underway.files * PARTS))

    def queue_status(self) -> QueueStatus | None:
        """The queue's status, for a dashboard; None if another process hosts it."""
        return None if self._host is None else self._host.status()

    def underway(self) -> tuple[int, float]:
        """Bytes and files reported by all producers, by the host's last message. Never waits."""
        counts = self._end.glimpse_counts()
        return counts.get("underway bytes", 0), counts.get("underway parts", 0) / PARTS

    @property
    def address(self) -> str:
        """The address at which others find the queue, with its actual port (never ``*``)."""
        return str(self._address)

    def close(self, timeout: float | None) -> None:
        self._end.close()
        try:
            self._end.join(timeout)
        finally:
            if self._host is not None:
                self._host.stop_hosting()


class FarIncomingRequest(IncomingRequest):
    """A received message that was not answered yet."""

    def __init__(self, end: QueueClient, taken: DeliveredItem) -> None:
        self.message = unframed(taken.item)
        self.attempt = taken.attempt
        self._end = end
        self._session = taken.session
        self._position = taken.position

    def answer(self, value: Any = None) -> None:
        self._end.takes.done(self._session, self._position, item_codec.encode(value, trusted=False))


class FarRequestReceiver(RemoteReceiver):
    """A consumer's side, which can be addressed by its name and by its store's id."""

    def __init__(
        self, address: Address, access: Access, wait: float, host: FarQueue | None, store: str
    ) -> None:
        self._host = host
        self._address = address
        self._end = QueueClient(address.seen_from_here(), access, wait=wait, tags=(store,))

    def reach(self, timeout: float) -> bool:
        """Whether a host has answered within `timeout` seconds. Raises `QueueLost`."""
        return self._end.reach(timeout)

    @property
    def name(self) -> str:  # type: ignore[override]
        """New in every session: the host has answered messages to an earlier one."""
        return self._end.takes.session_name()

    @property
    def address(self) -> str:
        """The address at which others find the queue, with its actual port (never ``*``)."""
        return str(self._address)

    def queue_status(self) -> QueueStatus | None:
        """The queue's status, for a dashboard; None if another process hosts it."""
        return None if self._host is None else self._host.status()

    def receive(self, timeout: float | None) -> FarIncomingRequest | None:
        try:
            taken = self._end.takes.take(1, DELIVERY, block=timeout != 0, timeout=timeout, to_the_end=True)[0]
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


HEAD = 4
"""Bytes of the length of what comes before the bodies of a message."""


def framed(message: list[Any]) -> Any:
    """`message` as an item. Its long bodies follow one another at the end of the item, as they are: they are
    copied once, to the memory or the socket in which they leave this process."""
    found = long_bodies(message)
    if not found:
        return message
    for index, _ in found:
        message[index] = None
    try:
        head = item_codec.encode([message, [[index, len(body)] for index, body in found]], trusted=False)
    except ItemError:  # a URL that is not Unicode: trusted peers pickle such a text
        for index, body in found:
            message[index] = body
        return message
    return item_codec.encode_pieces([len(head).to_bytes(HEAD), head, *(body for _, body in found)])


def unframed(item: Any) -> Any:
    """The message in an item; its long bodies are views. What is malformed is returned as it is, and is no
    message."""
    if type(item) is not bytes:
        return item
    view = memoryview(item)
    end = HEAD + int.from_bytes(view[:HEAD])
    try:
        message, places = item_codec.decode(bytes(view[HEAD:end]), 1, trusted=False)[0]
        for index, size in places:
            start, end = end, end + size
            message[index] = view[start:end]
    except (ProtocolError, ItemError, Untrusted, TypeError, ValueError, LookupError):
        return item
    return message


def open_request_sender(endpoint: Endpoint, *, helper: bool = False) -> FarRequestSender:
    """As `transport.open_request_sender`, over a far queue."""
    host = _host(endpoint, 1) if endpoint.bind else None
    place, access = _reach(endpoint, host)
    return FarRequestSender(place, access, endpoint.wait, host, helper=helper)


def open_request_receiver(endpoint: Endpoint, *, store: str, producers: int = 1) -> FarRequestReceiver:
    """As `transport.open_request_receiver`, over a far queue; `producers` counts for the host."""
    host = _host(endpoint, producers) if endpoint.bind else None
    place, access = _reach(endpoint, host)
    return FarRequestReceiver(place, access, endpoint.wait, host, store)


def _host(endpoint: Endpoint, producers: int) -> FarQueue:
    return FarQueue(
        0,
        endpoint.address,
        maxbytes=MOST_QUEUED,
        lanes=endpoint.lanes,
        keys=endpoint.keys,
        insecure=endpoint.insecure,
        producers=producers,
    )


def _reach(endpoint: Endpoint, host: FarQueue | None) -> tuple[Address, Access]:
    place = Address.parse_remote(endpoint.address if host is None else host.address)
    return place, approach(place, endpoint.keys, insecure=endpoint.insecure)


def _nothing() -> None:
    """The default callback: does nothing."""


TRANSPORT = RemoteTransport(open_request_sender, open_request_receiver)
