"""The transport between producers and consumers: messages, and one answer to each.

A `RequestSender` sends messages and receives one answer to each; a `RequestReceiver` receives messages and
answers them. Both transport msgpack types and tuples; `nearfar.download.messages` defines their meaning.
`far_transport` uses a far queue, `redis_transport` a Redis server, `near_transport` near queues between the
processes of one command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nearfar.download.fetch.base import HostLimits
from nearfar.download.model import Underway
from nearfar.net import schemes
from nearfar.net.memory import loading

if TYPE_CHECKING:
    from nearfar.dashboard.model import QueueStatus


@dataclass(frozen=True, slots=True)
class Undeliverable:
    """The answer to a message whose addressee was absent, or died before it answered."""

    to: str


class RequestSender(Protocol):
    """The producer's side. One thread uses it; `on_event` is called from any."""

    on_event: Callable[[], None]
    """Called when there may be new answers, new stores, or free room. Must be fast and must not raise."""

    def send(self, message: Any, *, to: str | None = None) -> int | None:
        """Send to any consumer, or only to `to` (a consumer's `name`, or a store's id, for any consumer of
        that store). Never waits.

        Returns the message's ticket, or None if there is no room now. The transport owns `message` from then
        on, and may change it.

        A message to any consumer is redelivered if its consumer dies, and so may be received twice; one to an
        addressee that dies is answered by `Undeliverable`.
        """

    def answers(self) -> list[tuple[int, Any]]:
        """The answers received since the last call, as (ticket, answer), each ticket once."""

    def stores(self) -> frozenset[str]:
        """The ids of the stores that have a consumer now."""

    def close(self, timeout: float | None) -> None:
        """Leave the queue. Raises `QueueLost` if sent messages cannot be handed over within `timeout`
        seconds."""


class IncomingRequest(Protocol):
    """One received message."""

    message: Any
    """Its bytes may be views, valid until the answer."""
    attempt: int

    def answer(self, value: Any = None) -> None:
        """Acknowledge the message with an answer. Before that, it is redelivered if this process dies."""


class RequestReceiver(Protocol):
    """The consumer's side. One thread uses it."""

    name: str
    """The value of `to` that addresses this consumer."""

    def receive(self, timeout: float | None) -> IncomingRequest | None:
        """The next message, or None if none came within `timeout` seconds.

        Raises `ShutDown` at the end: every producer has left, and every message except this consumer's
        unanswered ones is answered. Raises `ProducerLost` at the end if a producer died before.
        """

    def close(self, timeout: float | None) -> None:
        """Send the last answers and leave. Unanswered messages go to another consumer."""


class Remote(Protocol):
    """What both sides have whose queue is at an address."""

    @property
    def address(self) -> str:
        """The address at which others find the queue, without a password."""

    def reach(self, timeout: float) -> bool:
        """Whether the queue has answered within `timeout` seconds. Raises `QueueLost`, `NotAdmitted`."""

    def queue_status(self) -> QueueStatus | None:
        """The queue's status, for a dashboard; None if this process does not host it."""


class RemoteSender(RequestSender, Remote, Protocol):
    """A producer's side of a queue at an address."""

    limits: HostLimits | None
    """Of hosts, shared by all producers of the queue; None if it cannot hold them."""

    def attend(self) -> None:
        """Register as a producer, before anything is sent. Raises `QueueLost`."""

    def tell_underway(self, underway: Underway) -> None:
        """Report the progress of files that were not put yet, or not answered. Never waits."""

    def underway(self) -> tuple[int, float]:
        """Bytes and files that all producers reported, as far as is known here. Never waits."""


class RemoteReceiver(RequestReceiver, Remote, Protocol):
    """A consumer's side of a queue at an address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The queue at which the programs of a download meet, and how this one gets in."""

    address: str
    bind: bool = False
    """Whether this program hosts the queue there."""
    lanes: str | None = None
    """The ports for items of a hosted queue, as ``FROM-TO``."""
    keys: str | None = None
    """A folder of keys; None for what ``NEARFAR_KEYS`` names."""
    insecure: bool = False
    """Whether every program may connect."""
    wait: float = 60.0
    """Seconds that the queue's host may be absent."""


@dataclass(frozen=True, slots=True)
class RemoteTransport:
    """What is behind the scheme of an address: functions with the arguments of those below."""

    open_request_sender: Callable[..., RemoteSender]
    open_request_receiver: Callable[..., RemoteReceiver]


def open_request_sender(endpoint: Endpoint, *, helper: bool = False) -> RemoteSender:
    """A producer's side.

    A `helper` is not counted as a producer: it works for a counted one that outlives it.

    Raises `AddressError`, `KeysError`; the returned object raises `QueueLost` once the host is absent for
    ``endpoint.wait`` seconds, and `NotAdmitted`.
    """
    return _transport(endpoint).open_request_sender(endpoint, helper=helper)


def open_request_receiver(endpoint: Endpoint, *, store: str, producers: int = 1) -> RemoteReceiver:
    """A consumer's side, for the store with the id `store`; it expects `producers` producers.

    Raises as `open_request_sender`.
    """
    return _transport(endpoint).open_request_receiver(endpoint, store=store, producers=producers)


def _transport(endpoint: Endpoint) -> RemoteTransport:
    with loading():
        transport: RemoteTransport = schemes.load(schemes.DOWNLOADS, endpoint.address)
    return transport
