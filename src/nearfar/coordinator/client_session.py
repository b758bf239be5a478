"""The session of an agent or a client with a coordinator, and the next one when it is lost. Pure.

::

    NEW --begin--> GREETING --WELCOME--> OPEN        CLOSED is set by the owner
                      ^                   |
                      +----- STRANGER ----+

A socket that was rejected is replaced, until it is clear that the coordinator will never accept it. If a
coordinator is silent, the socket is replaced in the same session; only STRANGER ends a session. Times are
in seconds of any steady clock."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

from nearfar.coordinator.messages import (
    VERSION,
    PoolChannel,
    PoolFrame,
    PoolMessage,
    PoolMessageType,
    open_channel,
)
from nearfar.net.handshake import HandshakeFailures
from nearfar.net.reliable import Frame

GREET_EVERY = 0.25
"""Seconds between two HELLOs."""
DIAL_EVERY = 5.0
"""Seconds without a WELCOME after which the socket is replaced: its connection may be dead."""
FAREWELL = 3.0
"""Seconds of silence after which a closing peer, with nothing left to send, stops waiting for an answer."""
LOOSE = frozenset((PoolMessageType.WELCOME, PoolMessageType.REFUSED, PoolMessageType.STRANGER))
"""Messages of a coordinator outside of a session."""
IDLE = 3600.0
"""Seconds until `deadline` when there is nothing to do."""


class Connect(NamedTuple):
    """Close the socket, and open one under this session's name."""

    session: str


class SendMessage(NamedTuple):
    """Send this message."""

    envelope: PoolFrame


class SessionStage(IntEnum):
    """The stage of an agent's or a client's sessions as a whole."""

    NEW = 0
    GREETING = 1
    OPEN = 2
    CLOSED = 3


_OPEN = SessionStage.OPEN  # looked up once: it is compared in every step


class ClientSession:
    """`role`, `name` and `about` are the fields of HELLO; `name` is new for every agent and every client.

    `wait`: seconds without a message after which the coordinator counts as lost. A coordinator sends several
    messages in each lease, so at least half a lease must pass. `stem`: the prefix of its sessions' names
    (`nearfar.net.process.new_session_stem`).
    """

    def __init__(self, role: str, name: str, about: dict[str, Any], wait: float, stem: str = "") -> None:
        self.name = name
        self.stage = SessionStage.NEW
        self.talk: PoolChannel | None = None
        """The channel of the open session, or of the last one."""
        self.barred = ""
        """Why coordinator and peer do not accept each other, once that is certain."""
        self._refusals = HandshakeFailures()
        self._dial_again = False
        self._hello = PoolMessage(PoolMessageType.HELLO, (VERSION, role, name, about))
        self._stem = stem or name
        self._wait = wait
        self._sessions = 0
        self._greeted = self._called = self._ticked = self._wanted = self._away_since = 0.0
        self._actions: list[Connect | SendMessage] = []

    @property
    def session_name(self) -> str:
        return f"{self._stem}.{self._sessions}"

    def open_talk(self) -> PoolChannel | None:
        """The channel of the present session, if it is open."""
        return self.talk if self.stage is _OPEN else None

    def begin(self, now: float) -> None:
        """Begin a session, the first or the next."""
        if self.stage is SessionStage.NEW:
            self._ticked = now
        self._away_since = now
        self.stage = SessionStage.GREETING
        self._sessions += 1
        self._dial(now)
        self._greet(now)

    def welcome(self, message: PoolMessage, now: float) -> dict[str, Any] | None:
        """Open the session; returns the coordinator's facts, or None for a WELCOME of another session."""
        name, facts = message.fields
        if self.stage is not SessionStage.GREETING or name != self.session_name:
            return None
        self.stage = SessionStage.OPEN
        self._refusals.succeeded()
        self.talk = open_channel(facts["lease"], now)
        told: dict[str, Any] = facts
        return told

    def turned_away(self, why: str, now: float) -> None:
        """The coordinator rejected the socket of the present session."""
        if self.stage not in (SessionStage.GREETING, SessionStage.OPEN):
            return
        if self.stage is SessionStage.OPEN:
            self.begin(now)
        else:
            self._dial_again = True
        self._refusals.failed(why, now)
        self.barred = self._refusals.believed(now)

    def tick(self, now: float) -> None:
        """Process the time. Long after its deadline, this process was suspended and received nothing: then
        the coordinator does not count as silent."""
        stood, self._ticked = now - max(self._ticked, self._wanted), now
        talk = self.open_talk()
        if stood > (4 * GREET_EVERY if talk is None else talk.lease / 2):
            self._away_since = min(now, self._away_since + stood)
            if talk is not None:
                talk.postpone(stood, now)
        if talk is not None:
            talk.tick(now)
            if now >= max(talk.heard, self._called) + talk.lease:  # the connection may be broken
                self._dial(now)
        elif self.stage is SessionStage.GREETING and now - self._greeted >= GREET_EVERY:
            if now - self._called >= DIAL_EVERY:
                self._dial(now)
            self._greet(now)

    def flush(self, now: float) -> list[Connect | SendMessage]:
        """The actions to perform now."""
        actions, self._actions = self._actions, []
        if self.stage is _OPEN and self.talk is not None:
            actions += map(SendMessage, self.talk.flush(now))
        return actions

    def deadline(self, now: float) -> float:
        """When `tick`, `flush` or `lost` must be called next."""
        talk = self.talk
        if talk is not None and self.stage is _OPEN:
            heard = talk.heard
            lost = heard + max(self._wait, talk.lease / 2)
            call = max(heard, self._called) + talk.lease
            self._wanted = min(call, talk.out.when, talk.beat_at, lost)
        elif self.stage is SessionStage.GREETING:
            self._wanted = min(self._greeted + GREET_EVERY, self._away_since + self._wait)
        else:
            return now + IDLE
        return self._wanted

    def away(self, now: float) -> float:
        """Seconds since a coordinator answered last; 0 if one answers."""
        talk = self.open_talk()
        if talk is not None:
            silence = now - talk.heard
            return silence if silence >= talk.lease / 2 else 0.0
        return now - self._away_since if self.stage is SessionStage.GREETING else 0.0

    def silent_since(self, moment: float) -> float:
        """Since when nothing has been received, `moment` at the earliest."""
        talk = self.open_talk()
        return moment if talk is None else max(moment, talk.heard)

    def lost(self, now: float) -> bool:
        """True if no coordinator answered for `wait` seconds."""
        return self.stage is not SessionStage.NEW and self.away(now) >= self._wait

    def _dial(self, now: float) -> None:
        self._called = now
        self._actions.append(Connect(self.session_name))

    def _greet(self, now: float) -> None:
        self._greeted = now
        if self._dial_again:
            self._dial_again = False
            self._actions.append(Connect(self.session_name))
        self._actions.append(SendMessage(Frame(0, 0, self._hello)))
