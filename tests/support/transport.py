"""A transport in memory: producers and consumers in one thread, and consumers that die when the test says so.

Messages and answers pass through msgpack, as they do on the wire.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgpack  # type: ignore[import-untyped]

from nearfar.download.transport import Undeliverable
from nearfar.errors import ShutDown


def through_the_wire(value: Any) -> Any:
    return msgpack.unpackb(msgpack.packb(value), use_list=False)


@dataclass
class Envelope:
    ticket: int
    to: str | None
    message: Any
    attempt: int = 1


@dataclass
class Post:
    """What lies between the ends: one producer, any number of consumers."""

    room: int = 1000
    """Messages that may be under way; `send` finds no room past it."""
    waiting: deque[Envelope] = field(default_factory=deque)
    held: dict[str, list[Envelope]] = field(default_factory=dict)
    """By consumer: what it received and has not answered."""
    answered: deque[tuple[int, Any]] = field(default_factory=deque)
    homes: dict[str, str] = field(default_factory=dict)
    """The store of each consumer that is there."""
    ended: bool = False
    sent: list[Any] = field(default_factory=list)

    def join(self, name: str, store: str) -> Inbox:
        self.homes[name] = store
        self.held[name] = []
        return Inbox(self, name)

    def kill(self, name: str) -> None:
        """As a host does it: what was for anybody goes round again, what was for `name` comes back."""
        store = self.homes.pop(name)
        gone = {name} if store in self.homes.values() else {name, store}
        lost = self.held.pop(name)
        back = [envelope for envelope in (*lost, *self.waiting) if envelope.to in gone]
        self.answered.extend((envelope.ticket, Undeliverable(envelope.to or "")) for envelope in back)
        self.waiting = deque(envelope for envelope in self.waiting if envelope not in back)
        again = [envelope for envelope in lost if envelope not in back]
        for envelope in again:
            envelope.attempt += 1
        self.waiting.extendleft(reversed(again))

    def next_for(self, name: str) -> Envelope | None:
        for envelope in self.waiting:
            if envelope.to in (None, name, self.homes[name]):
                self.waiting.remove(envelope)
                self.held[name].append(envelope)
                return envelope
        return None


class Outbox:
    """An `RequestSender`."""

    def __init__(self, post: Post) -> None:
        self.on_event: Callable[[], None] = lambda: None
        self.post = post
        self._tickets = 0

    def send(self, message: Any, *, to: str | None = None) -> int | None:
        if len(self.post.waiting) >= self.post.room:
            return None
        self._tickets += 1
        message = through_the_wire(message)
        self.post.sent.append(message)
        if to in (None, *self.post.homes, *self.post.homes.values()):
            self.post.waiting.append(Envelope(self._tickets, to, message))
        else:
            self.post.answered.append((self._tickets, Undeliverable(to or "")))
        return self._tickets

    def answers(self) -> list[tuple[int, Any]]:
        answers = list(self.post.answered)
        self.post.answered.clear()
        return answers

    def stores(self) -> frozenset[str]:
        return frozenset(self.post.homes.values())

    def close(self, timeout: float | None) -> None:
        self.post.ended = True


class Inbox:
    """An `RequestReceiver`."""

    def __init__(self, post: Post, name: str) -> None:
        self.name = name
        self.post = post

    def receive(self, timeout: float | None) -> Slip | None:
        envelope = self.post.next_for(self.name)
        if envelope is None and self.post.ended:
            raise ShutDown
        return Slip(self, envelope) if envelope else None

    def close(self, timeout: float | None) -> None:
        self.post.kill(self.name)


class Slip:
    """A `IncomingRequest`."""

    def __init__(self, inbox: Inbox, envelope: Envelope) -> None:
        self.message = envelope.message
        self.attempt = envelope.attempt
        self._inbox = inbox
        self._envelope = envelope

    def answer(self, value: Any = None) -> None:
        post, name = self._inbox.post, self._inbox.name
        if self._envelope in post.held.get(name, ()):
            post.held[name].remove(self._envelope)
            post.answered.append((self._envelope.ticket, through_the_wire(value)))
