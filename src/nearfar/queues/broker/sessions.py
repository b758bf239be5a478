"""The broker's record of each client session, and the table of all sessions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from nearfar.net.reliable import Heartbeat, ReceiveWindow, SendWindow
from nearfar.queues.messages import QueueFrame, QueueMessage, QueueMessageType
from nearfar.serialization.shared_ring import KeptRing, Place

MOST_ROUNDS = 1000
"""Questions of one client that may wait for the other clients at a time: one for each thread of a program."""
MOST_JOINS = 1000
"""Calls of `join` that one client may have waiting."""
MOST_HEAVY = 16
"""Answers with dead letters that one client may leave unacked."""


class SendTo(NamedTuple):
    """An action: send this to a session, on its lane if it carries items."""

    session: str
    envelope: QueueFrame


class OpenLane(NamedTuple):
    """An action: bind a lane for the session, then report its place (`BrokerProtocol.lane_opened`)."""

    session: str
    ask: int


class CloseLane(NamedTuple):
    """An action: close the lane of a session that ended."""

    session: str


Action = SendTo | OpenLane | CloseLane


@dataclass(slots=True)
class Peer:
    """One session."""

    session: str
    uid: str
    heard: float
    out: SendWindow[QueueMessage]
    heartbeat: Heartbeat
    ticket: str
    """What its items come with, in ASCII; no other client learns it."""
    inbox: ReceiveWindow[QueueMessage] = field(default_factory=lambda: ReceiveWindow(_weight))
    produces: bool = False
    consumes: bool = False
    needs: tuple[int, int] = (0, 0)
    """Items and bytes it wants granted in total."""
    least: int = 0
    """Bytes it needs granted in total for its next item to fit."""
    said: float = inf
    """The earliest time at which its last message can have been sent; it may have waited here unread."""
    granted: tuple[int, int] = (0, 0)
    """Items and bytes it was granted in total, since the session began."""
    due: float = inf
    """When its next check is due, as set in `Timers`."""
    told_over: bool = False
    rounds: int = 0
    """Barriers that it has under way."""
    joins: int = 0
    underway: dict[str, int] = field(default_factory=dict)
    """Its last figures of work that it has not put yet; `counts` adds up those of all clients."""
    deliver: Callable[[QueueMessage], object] | None = None
    """Takes what is sent to a client in the broker's own process; None for all others."""
    heavy: list[int] = field(default_factory=list)
    """The numbers of the answers with dead letters that it has not acked."""
    shares: bool = False
    """Whether it is on this machine, and shares memory."""
    ring: KeptRing | None = None
    """The memory in which it may put items."""
    rings: set[int] = field(default_factory=set)
    """The rings that it was told of."""
    inline: bool = False
    """Whether it cannot read these: items are sent to it."""

    @property
    def in_need(self) -> bool:
        """True if it waits for room."""
        return self.granted[0] < self.needs[0] or self.granted[1] < self.needs[1]

    @property
    def unmet(self) -> tuple[int, int]:
        """Items and bytes it still waits to be granted."""
        return (max(0, self.needs[0] - self.granted[0]), max(0, self.needs[1] - self.granted[1]))


def _weight(message: QueueMessage) -> int:
    return len(message.body or b"")


class PeerTable:
    """The open sessions, and the actions collected since the last flush."""

    def __init__(self) -> None:
        self.peers: dict[str, Peer] = {}
        self.session_of: dict[str, str] = {}
        """The open session of each client, by the client's name."""
        self.spoken: dict[str, Peer] = {}
        """The sessions that sent or received something since they were last checked."""
        self.actions: list[Action] = []

    def peer_of(self, uid: str) -> Peer | None:
        """The present session of the client `uid`."""
        return self.peers.get(self.session_of.get(uid, ""))

    def send(
        self,
        peer: Peer,
        kind: QueueMessageType,
        *fields: Any,
        body: bytes | Place | None = None,
        now: float,
    ) -> None:
        """Send a numbered message."""
        message = QueueMessage(kind, fields, body)
        if peer.deliver is not None:
            peer.deliver(message)
            return
        number = peer.out.send(message, now)
        self.actions.append(SendTo(peer.session, QueueFrame(number, peer.inbox.received, message)))
        peer.heartbeat.spoke(now)
        self.spoken[peer.session] = peer

    def send_unnumbered(self, session: str, kind: QueueMessageType, *fields: Any, ack: int = 0) -> None:
        """Send one of the messages that open, keep and end a session."""
        self.actions.append(SendTo(session, QueueFrame(0, ack, QueueMessage(kind, fields))))

    def answer(self, peer: Peer, ask: int, value: Any, now: float) -> None:
        """Answer a question, unless the asker is gone."""
        if self.peers.get(peer.session) is peer:
            self.send(peer, QueueMessageType.ANSWER, ask, value, now=now)
