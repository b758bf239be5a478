"""The broker's record of each client's session, and the table of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from nearfar.net.session import SendTo, ServerSession, SessionEnd, SessionTable
from nearfar.queues.messages import QueueMessage, QueueMessageType
from nearfar.serialization.shared_ring import KeptRing, Place

MOST_ROUNDS = 1000
"""Questions of one client that may wait for the other clients at a time: one for each thread of a program."""
MOST_JOINS = 1000
"""Calls of `join` that one client may have waiting."""
MOST_HEAVY = 16
"""Answers with dead letters that one client may leave unacked."""


class OpenLane(NamedTuple):
    """An action: bind a lane for the session, then report its place (`BrokerProtocol.lane_opened`)."""

    session: str
    ask: int


class CloseLane(NamedTuple):
    """An action: close the lane of a session that ended."""

    session: str


Action = SendTo | OpenLane | CloseLane


@dataclass(slots=True, eq=False)
class Peer(ServerSession[QueueMessage]):
    """One session. Of a client in the broker's own process, the channel only says when it was heard."""

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


class PeerTable(SessionTable[Peer, QueueMessage]):
    """The sessions of a broker. Items among its messages are sent on the lanes."""

    def __init__(
        self, lease: float, most: int, end: Callable[[Peer, str, SessionEnd, float], object]
    ) -> None:
        super().__init__(lease, most, _refusal, QueueMessage(QueueMessageType.STRANGER), end)

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
        self.touched[peer.name] = peer

    def answer(self, peer: Peer, ask: int, value: Any, now: float) -> None:
        """Answer a question, unless the asker is gone."""
        if self.sessions.get(peer.name) is peer:
            self.send(peer, QueueMessageType.ANSWER, ask, value, now=now)


def _refusal(why: str) -> QueueMessage:
    return QueueMessage(QueueMessageType.REFUSED, (why,))
