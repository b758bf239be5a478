"""What the host knows of one session of an end: its two lines, its roles, what it asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from nearfar.net.line import Incoming, Outgoing, Voice
from nearfar.queues.wire import Envelope, Message

MOST_ROUNDS = 1000
"""Questions of one end that may wait for the others' word at a time: one for each thread of a program."""
MOST_JOINS = 1000
"""Calls of `join` that one end may have waiting."""
MOST_HEAVY = 16
"""Answers with dead letters that one end may leave unacked."""


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
    ticket: str
    """What its items come with, in ASCII; nobody else is told."""
    inbox: Incoming[Message] = field(default_factory=lambda: Incoming(_weight))
    produces: bool = False
    consumes: bool = False
    needs: tuple[int, int] = (0, 0)
    """Items and bytes it wants to have been granted in all."""
    least: int = 0
    """Bytes it wants to have been granted in all for its next item to fit."""
    said: float = inf
    """The earliest that what it said last can have been said; it may have lain here unread."""
    granted: tuple[int, int] = (0, 0)
    """Items and bytes it was granted in all, since the session began."""
    due: float = inf
    """When it is looked at next, as far as `Dues` knows."""
    told_over: bool = False
    rounds: int = 0
    """Rounds that it has under way."""
    joins: int = 0
    underway: dict[str, int] = field(default_factory=dict)
    """What it said last of work that it has not put yet: figures of its own, added up for who asks."""
    heavy: list[int] = field(default_factory=list)
    """The numbers of the answers with dead letters that it may not have."""

    @property
    def in_need(self) -> bool:
        """True if it waits for room."""
        return self.granted[0] < self.needs[0] or self.granted[1] < self.needs[1]

    @property
    def unmet(self) -> tuple[int, int]:
        """Items and bytes it still waits to be granted."""
        return (max(0, self.needs[0] - self.granted[0]), max(0, self.needs[1] - self.granted[1]))


def _weight(message: Message) -> int:
    return len(message.body or b"")
