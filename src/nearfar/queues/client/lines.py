"""How the messages of one session are transmitted. Pure.

`SocketLine`: over sockets; messages are numbered, kept until they are acked, and resent if they get lost.
`LocalLine`: to a broker in this process, by calls.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import NamedTuple, Protocol

from nearfar.net.reliable import Heartbeat, ReceiveWindow, SendWindow
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.broker.sessions import Peer
from nearfar.queues.messages import QueueFrame, QueueMessage, QueueMessageType, broken


class ConnectControl(NamedTuple):
    """Close every socket, and open a control socket under this session's name."""

    session: str


class ConnectInbox(NamedTuple):
    """Connect to the broker's inbox; messages to it carry the ticket."""

    place: int | str
    ticket: str


class ConnectLane(NamedTuple):
    """Connect to this client's lane, the broker's `DeliverySocket` for it."""

    place: int | str


class Close(NamedTuple):
    """Close every socket for good."""


class SendControl(NamedTuple):
    """Send this message: to the inbox if it carries items, else over the control socket."""

    envelope: QueueFrame


Action = ConnectControl | ConnectInbox | ConnectLane | SendControl | Close


class Line(Protocol):
    """The interface of both kinds of line."""

    heard: float
    """When the last message arrived."""
    acked: int
    """The last of our messages that the broker had received when it sent its latest message."""
    lane: bool
    """Whether items are received over a separate socket, which must be requested."""
    outgoing: list[Action]
    """Actions not performed yet."""

    def send(self, message: QueueMessage, now: float) -> int:
        """Send a message, and return its number."""

    def tick(self, now: float) -> None:
        """Resend what may have got lost."""

    def beat(self, now: float) -> None:
        """Send an ack or a heartbeat, if one is due."""

    def broken(self, now: float) -> bool:
        """True if the broker has been silent for too long, or messages to it no longer arrive."""

    def postpone(self, seconds: float, now: float) -> None:
        """This process was suspended for `seconds`: that time does not count as silence of the broker."""

    def deadline(self) -> float:
        """When to call `tick` and `beat` next."""

    def close(self) -> None:
        """The client has ended this session."""


class SocketLine:
    """A line over sockets. `lease` is in seconds."""

    def __init__(self, lease: float, now: float) -> None:
        self.heard = now
        self.acked = 0
        self.lane = True
        self.outgoing: list[Action] = []
        self._lease = lease
        self._out: SendWindow[QueueMessage] = SendWindow(lease / 10)
        self._in: ReceiveWindow[QueueMessage] = ReceiveWindow(_weight)
        self._heartbeat = Heartbeat(lease, now)

    @property
    def received(self) -> int:
        """The number of the last message that the broker is known to have received."""
        return self._out.received

    def hear(self, envelope: QueueFrame, now: float) -> list[QueueMessage]:
        """The messages that are next in order, after this one has arrived."""
        self.heard = now
        number, self.acked, message = envelope
        if self.acked > self._out.received:
            self._out.acked(self.acked, now)
        if not number:
            return []
        self._heartbeat.heard(now, len(message.body or b""))
        return self._in.accept(number, message)

    def send(self, message: QueueMessage, now: float) -> int:
        number = self._out.send(message, now)
        self.outgoing.append(SendControl(QueueFrame(number, self._in.received, message)))
        self._heartbeat.spoke(now)
        return number

    def tick(self, now: float) -> None:
        if now >= self._out.when:
            for number, message in self._out.overdue(now):
                self.outgoing.append(SendControl(QueueFrame(number, self._in.received, message)))

    def beat(self, now: float) -> None:
        if now >= self._heartbeat.when:
            beat = QueueMessage(QueueMessageType.BEAT)
            self.outgoing.append(SendControl(QueueFrame(0, self._in.received, beat)))
            self._heartbeat.spoke(now)

    def broken(self, now: float) -> bool:
        return now - self.heard >= self._lease or (
            self._out.sent > self._out.received and broken(self._out, self._lease, now)
        )

    def postpone(self, seconds: float, now: float) -> None:
        self.heard = min(now, self.heard + seconds)
        self._out.postpone(seconds)

    def deadline(self) -> float:
        return min(self.heard + self._lease, self._heartbeat.when, self._out.when)

    def close(self) -> None:
        """Does nothing: no message needs to be sent to the broker."""


class LocalLine:
    """A line to a broker in this process: `send` returns when the broker has the message, and the broker's
    messages wait in `came`."""

    heard = inf
    acked = 0
    lane = False

    def __init__(self, broker: BrokerProtocol, name: str, session: str, now: float) -> None:
        self.outgoing: list[Action] = []
        self.came: deque[QueueMessage] = deque()
        self._broker = broker
        self._peer: Peer
        self._peer, self.facts = broker.admit_local(session, name, self.came.append, now)

    def send(self, message: QueueMessage, now: float) -> int:
        self._broker.receive_local(self._peer, message, now)
        return 0

    def tick(self, now: float) -> None:
        """Does nothing: no message can get lost."""

    beat = tick

    def broken(self, now: float) -> bool:
        return False

    def postpone(self, seconds: float, now: float) -> None:
        """Does nothing: there are no timeouts."""

    def deadline(self) -> float:
        return inf

    def close(self) -> None:
        self._broker.dead(self._peer.session, f"{self._peer.uid} left without a goodbye", self._peer.heard)


def _weight(message: QueueMessage) -> int:
    return len(message.body or b"")
