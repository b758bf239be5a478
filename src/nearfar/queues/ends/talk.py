"""The conversation of one session with its host: both lines, and what is to be sent on them."""

from __future__ import annotations

from nearfar.net.line import Incoming, Outgoing
from nearfar.queues.ends.actions import Action, Send
from nearfar.queues.wire import Envelope, Kind, Message


class Talk:
    """Numbers what goes out, puts in order what comes in. `lease` is in seconds."""

    def __init__(self, lease: float, now: float) -> None:
        self._out: Outgoing[Message] = Outgoing(lease / 10)
        self._in: Incoming[Message] = Incoming()
        self._owes_ack = False
        self._beat = lease / 5
        self._spoken = now
        self._actions: list[Action] = []
        self.acked = 0
        """The last of our messages that the host had when it sent what came last."""

    @property
    def received(self) -> int:
        """The last of our messages that the host has."""
        return self._out.sent - len(self._out)

    def send(self, message: Message, now: float) -> int:
        """Send a message of the line, and return its number."""
        number = self._out.send(message, now)
        self._actions.append(Send(Envelope(number, self._in.received, message)))
        self._owes_ack = False
        return number

    def hear(self, envelope: Envelope, now: float) -> list[Message]:
        """The messages whose turn has come."""
        number, self.acked, message = envelope
        self._out.acked(self.acked, now)
        if not number:
            return []
        self._owes_ack = True
        return self._in.accept(number, message)

    def tick(self, now: float) -> None:
        """Send again what may have got lost, and a beat now and then."""
        for number, message in self._out.overdue(now):
            self._actions.append(Send(Envelope(number, self._in.received, message)))
        if now - self._spoken >= self._beat:
            self._say_beat(now)

    def actions(self, now: float) -> list[Action]:
        """All that is to be sent, an ack among it if one is owed."""
        if self._owes_ack:
            self._say_beat(now)
        actions, self._actions = self._actions, []
        return actions

    def deadline(self) -> float:
        """When `tick` is wanted next."""
        overdue = self._out.deadline()
        beat = self._spoken + self._beat
        return beat if overdue is None else min(beat, overdue)

    def _say_beat(self, now: float) -> None:
        self._spoken = now
        self._owes_ack = False
        self._actions.append(Send(Envelope(0, self._in.received, Message(Kind.BEAT))))
