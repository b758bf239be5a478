"""The broker's record of each client session, and the table of all sessions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from nearfar.net.reliable import Frame
from nearfar.net.timers import Timers
from nearfar.queues.messages import QueueChannel, QueueFrame, QueueMessage, QueueMessageType
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
    channel: QueueChannel
    """Unused for a client in the broker's own process, except for when it was heard."""
    ticket: str
    """What its items come with, in ASCII; no other client learns it."""
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


class PeerTable:
    """The open sessions, and the actions collected since the last flush."""

    def __init__(self) -> None:
        self.peers: dict[str, Peer] = {}
        self.session_of: dict[str, str] = {}
        """The open session of each client, by the client's name."""
        self.spoken: dict[str, Peer] = {}
        """The sessions that sent or received something since they were last checked."""
        self.timers: Timers[Peer] = Timers()
        """When to check each session next."""
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
        peer.channel.send(message, now)
        self.spoken[peer.session] = peer

    def send_unnumbered(self, session: str, kind: QueueMessageType, *fields: Any) -> None:
        """Send one of the messages that open and end a session."""
        self.actions.append(SendTo(session, Frame(0, 0, QueueMessage(kind, fields))))

    def flush(self, now: float) -> list[Action]:
        """The actions to perform, and schedule the next check of the sessions that had some."""
        actions, self.actions = self.actions, []
        for name, peer in self.spoken.items():
            for frame in peer.channel.flush(now):
                actions.append(SendTo(name, frame))
            if (due := peer.channel.deadline()) < peer.due:
                self.timers.set(peer, due)
        self.spoken.clear()
        return actions

    def answer(self, peer: Peer, ask: int, value: Any, now: float) -> None:
        """Answer a question, unless the asker is gone."""
        if self.peers.get(peer.session) is peer:
            self.send(peer, QueueMessageType.ANSWER, ask, value, now=now)
