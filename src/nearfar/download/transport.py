"""The transport between producers and consumers: messages, and one answer to each.

A `RequestSender` sends messages and receives one answer to each; a `RequestReceiver` receives messages and
answers them. Both transport msgpack types and tuples; `nearfar.download.messages` defines their meaning.
`far_transport` uses a far queue, `near_transport` near queues between the processes of one command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


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
