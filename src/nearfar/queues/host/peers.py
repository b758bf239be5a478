"""What the host knows of one session of an end: its two lines, its roles, what it asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from nearfar.net.line import Incoming, Outgoing, Voice
from nearfar.queues.wire import Envelope, Message


class Send(NamedTuple):
    """An action: send this to a session, on its lane if it carries items."""

    session: str
    envelope: Envelope


class OpenLane(NamedTuple):
    """An action: bind a lane for the session, then tell the machine where (`lane_opened`)."""

    session: str
    ask: int


class CloseLane(NamedTuple):
    """An action: the session is over."""

    session: str


Action = Send | OpenLane | CloseLane


@dataclass(slots=True)
class Peer:
    """One session."""

    session: str
    uid: str
    heard: float
    out: Outgoing[Message]
    voice: Voice
    inbox: Incoming[Message] = field(default_factory=Incoming)
    produces: bool = False
    consumes: bool = False
    needs: tuple[int, int] = (0, 0)
    """Items and bytes it wants to have been granted in all."""
    granted: tuple[int, int] = (0, 0)
    """Items and bytes it was granted in all, since the session began."""
    told_over: bool = False

    @property
    def in_need(self) -> bool:
        """True if it waits for room."""
        return self.granted[0] < self.needs[0] or self.granted[1] < self.needs[1]

    @property
    def unmet(self) -> tuple[int, int]:
        """Items and bytes it still waits to be granted."""
        return (max(0, self.needs[0] - self.granted[0]), max(0, self.needs[1] - self.granted[1]))
