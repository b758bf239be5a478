"""The transport between producers and consumers: messages, and one answer to each.

A `RequestSender` sends messages and receives one answer to each; a `RequestReceiver` receives messages and
answers them. Both carry msgpack types and tuples; `nearfar.download.messages` gives them a meaning.
`far_transport` uses a far queue, `near_transport` near queues between the processes of one command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


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
