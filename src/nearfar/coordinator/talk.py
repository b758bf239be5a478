"""The conversation of one session: both its lines, and whether the other side is silent. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nearfar.coordinator import parts
from nearfar.coordinator.parts import Row
from nearfar.coordinator.wire import BLOBS, Envelope, Kind, Message
from nearfar.net.budget import Budget
from nearfar.net.line import Incoming, Outgoing, Voice

HEAVIEST_AHEAD = 4 << 20
"""Bytes of messages of one session that came ahead of their turn. On the one socket of a session they come in
order, but where a connection broke: then all is sent again."""


SOON = 4
"""How much a byte weighs until it is acked: a message of 1 MiB is so at once, for the other side keeps it."""

_BEAT = Message(Kind.BEAT)


class Talk:
    """Numbers what goes out, puts in order what comes in. `lease` is in seconds."""

    __slots__ = ("_in", "_ready", "heard", "lease", "out", "voice")

    def __init__(self, lease: float, now: float) -> None:
        self.lease = lease
        self.heard = now
        """When anything last came."""
        # What goes out; `out.received` is the last of our messages that the other side has.
        self.out: Outgoing[Message] = Outgoing(lease / 10)
        self._in: Incoming[Message] = Incoming(weight, HEAVIEST_AHEAD)
        self.voice = Voice(lease, now)
        self._ready: list[Envelope] = []

    def allow(self, ahead: Budget, name: str) -> None:
        """What comes ahead of its turn is to fit into what all sessions may have, this one as `name`."""
        self._in.allowance = (ahead, name)

    def close(self) -> None:
        """The session is over: nothing more comes."""
        self._in.close()

    def say(self, now: float, kind: Kind, *fields: Any, rows: Sequence[Row] | None = None) -> int:
        """Send a numbered message, and return its number."""
        message = Message(kind, fields, rows)
        number = self.out.send(message, now)
        self._ready.append(Envelope(number, self._in.received, message))
        self.voice.spoke(now)
        return number

    def hear(self, envelope: Envelope, now: float) -> Sequence[Message]:
        """Take what came; returns the messages whose turn it is."""
        self.heard = now
        number, ack, message = envelope
        if ack > self.out.received:
            self.out.acked(ack, now)
        if not number:
            return ()
        rows, size = message.rows, 0
        if rows and (blob := BLOBS.get(message.kind)) is not None:
            size = parts.weight(rows, blob)
        self.voice.heard(now, SOON * size)
        return self._in.accept(number, message)

    def silent(self, now: float) -> bool:
        """True if nothing came for a whole lease."""
        return now - self.heard >= self.lease

    def tick(self, now: float) -> None:
        """Send again what may have got lost."""
        received = self._in.received
        self._ready += [Envelope(number, received, message) for number, message in self.out.overdue(now)]

    def flush(self, now: float) -> list[Envelope]:
        """All that is to be sent, a beat among it if one is due."""
        ready = self._ready
        if now >= self.voice.when:
            ready.append(Envelope(0, self._in.received, _BEAT))
            self.voice.spoke(now)
        if ready:
            self._ready = []
        return ready

    def deadline(self) -> float:
        """When `tick`, `flush` or `silent` is wanted next."""
        return min(self.voice.when, self.out.when, self.heard + self.lease)

    @property
    def unheard(self) -> bool:
        """True if the other side leaves so much unacked that it cannot be listening."""
        return self.out.unheard

    def unacked(self) -> list[Message]:
        """What the other side may not have."""
        return [message for _, message in self.out.unacked()]


def weight(message: Message) -> int:
    """Bytes that its rows carry."""
    blob = BLOBS.get(message.kind)
    return parts.weight(message.rows, blob) if message.rows and blob is not None else 0
