"""The conversation of one session with its host: both lines, and what is to be sent on them."""

from __future__ import annotations

from nearfar.net.line import Incoming, Outgoing, Voice
from nearfar.queues.ends.actions import Action, Send
from nearfar.queues.stuck import broken
from nearfar.queues.wire import Envelope, Kind, Message


class Talk:
    """Numbers what goes out, puts in order what comes in. `lease` is in seconds."""

    def __init__(self, lease: float, now: float) -> None:
        self._out: Outgoing[Message] = Outgoing(lease / 10)
        self._in: Incoming[Message] = Incoming(_weight)
        self._voice = Voice(lease, now)
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
        self._voice.spoke(now)
        return number

    def hear(self, envelope: Envelope, now: float) -> list[Message]:
        """The messages whose turn has come."""
        number, self.acked, message = envelope
        self._out.acked(self.acked, now)
        if not number:
            return []
        self._voice.heard(now, len(message.body or b""))
        return self._in.accept(number, message)

    def tick(self, now: float) -> None:
        """Send again what may have got lost."""
        for number, message in self._out.overdue(now):
            self._actions.append(Send(Envelope(number, self._in.received, message)))

    def postpone(self, seconds: float) -> None:
        """This process stood still for so long."""
        self._out.postpone(seconds)

    def broken(self, lease: float, now: float) -> bool:
        """True if the host is heard, and gets nothing any more."""
        return broken(self._out, lease, now)

    def actions(self, now: float) -> list[Action]:
        """All that is to be sent, a beat among it if one is due."""
        if self._voice.due(now):
            self._actions.append(Send(Envelope(0, self._in.received, Message(Kind.BEAT))))
            self._voice.spoke(now)
        actions, self._actions = self._actions, []
        return actions

    def deadline(self) -> float:
        """When `tick` is wanted next."""
        overdue = self._out.deadline()
        beat = self._voice.deadline()
        return beat if overdue is None else min(beat, overdue)


def _weight(message: Message) -> int:
    return len(message.body or b"")
