"""How the messages of one session are transmitted. Pure.

`SocketLine`: over sockets; messages are numbered, kept until they are acked, and resent if they get lost.
`LocalLine`: to a broker in this process, by calls.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import NamedTuple, Protocol

from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.broker.sessions import Peer
from nearfar.queues.messages import QueueFrame, QueueMessage, open_channel


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

    lane: bool
    """Whether items are received over a separate socket, which must be requested."""
    outgoing: list[Action]
    """Actions not performed yet."""

    @property
    def heard(self) -> float:
        """When the last message arrived."""

    @property
    def acked(self) -> int:
        """The last of our messages that the broker had received when it sent its latest message."""

    def send(self, message: QueueMessage, now: float) -> int:
        """Send a message, and return its number."""

    def tick(self, now: float) -> None:
        """Resend what may have got lost."""

    def flush(self, now: float) -> list[Action]:
        """The actions to perform, with an ack or a heartbeat if one is due."""

    def broken(self, now: float) -> bool:
        """True if the broker has been silent for too long, or messages to it no longer arrive."""

    def postpone(self, seconds: float, now: float) -> None:
        """This process was suspended for `seconds`: that time does not count as silence of the broker."""

    def deadline(self) -> float:
        """When to call `tick` and `flush` next."""

    def close(self) -> None:
        """The client has ended this session."""


class SocketLine:
    """A line over sockets. `lease` is in seconds."""

    lane = True

    def __init__(self, lease: float, now: float) -> None:
        self.channel = open_channel(lease, now)
        self.outgoing: list[Action] = []

    @property
    def heard(self) -> float:
        return self.channel.heard

    @property
    def acked(self) -> int:
        return self.channel.acked

    def send(self, message: QueueMessage, now: float) -> int:
        return self.channel.send(message, now)

    def tick(self, now: float) -> None:
        self.channel.tick(now)

    def flush(self, now: float) -> list[Action]:
        actions, self.outgoing = self.outgoing, []
        for frame in self.channel.flush(now):
            actions.append(SendControl(frame))
        return actions

    def broken(self, now: float) -> bool:
        return bool(self.channel.fault(now))

    def postpone(self, seconds: float, now: float) -> None:
        self.channel.postpone(seconds, now)

    def deadline(self) -> float:
        return self.channel.deadline()

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

    def flush(self, now: float) -> list[Action]:
        return []

    def broken(self, now: float) -> bool:
        return False

    def postpone(self, seconds: float, now: float) -> None:
        """Does nothing: there are no timeouts."""

    def deadline(self) -> float:
        return inf

    def close(self) -> None:
        self._broker.dead(
            self._peer.session, f"{self._peer.uid} left without a goodbye", self._peer.channel.heard
        )
