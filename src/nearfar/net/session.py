"""Sessions between two peers: begun, kept, renewed and lost. Pure.

The messages of a session travel in a `ReliableChannel` (`nearfar.net.reliable`). A session has a name, new
each time: that of its socket at the peer that connects. What that peer does (`ClientSession`)::

    NEW --begin--> GREETING --WELCOME--> OPEN        CLOSED is set by the owner
                      ^                   |
                      +----- STRANGER ----+

It sends HELLO until WELCOME comes, now and then over a new connection. A socket that was rejected is
replaced, until it is clear that the other side will never accept it. STRANGER, for a session that the other
side does not know (any more), begins the next one.

Neither side counts its own suspension as silence of the other. Times are in seconds of any steady clock."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Generic, NamedTuple, TypeVar

from nearfar.net.handshake import HandshakeFailures
from nearfar.net.reliable import Frame, ReliableChannel
from nearfar.net.timers import SuspendDetector

GREET_EVERY = 0.25
"""Seconds between two HELLOs."""
DIAL_EVERY = 5.0
"""Seconds without a WELCOME after which the socket is replaced: its connection may be dead."""
IDLE = 3600.0
"""Seconds until `deadline` when there is nothing to do."""

M = TypeVar("M")


class Connect(NamedTuple):
    """Close every socket of this client, and open one under this session's name."""

    session: str


class SendMessage(NamedTuple):
    """Send this message."""

    envelope: Frame[Any]


class SessionStage(IntEnum):
    """The stage of a client's sessions as a whole."""

    NEW = 0
    GREETING = 1
    OPEN = 2
    CLOSED = 3


_OPEN = SessionStage.OPEN  # looked up once: it is compared in every step


class ClientSession(Generic[M]):
    """The present session of a peer that connects, and the next one when it is lost.

    `stem`: the prefix of the sessions' names (`nearfar.net.process.new_session_stem`). `open_channel` makes a
    channel from a lease and the time. `wait`: seconds without a message after which the other side counts as
    `lost`. It sends several messages in each lease, so at least half a lease must pass.

    If the other side is silent for a lease, the connection may be broken. Then the socket is replaced in the
    same session. If a session has several connections, set `renew`: then the next session begins, also if the
    other side is heard and acks nothing, because a single connection may be dead. `renew` is called whenever
    a session has ended and the next one begins.
    """

    def __init__(
        self,
        stem: str,
        hello: M,
        open_channel: Callable[[float, float], ReliableChannel[M]],
        wait: float,
        renew: Callable[[], object] | None = None,
    ) -> None:
        self.stage = SessionStage.NEW
        self.number = 0
        """Of the present session, from 1."""
        self.hello = hello
        self.talk: ReliableChannel[M] | None = None
        """The channel of the open session, or of the last one."""
        self.barred = ""
        """Why the two sides do not accept each other, once that is certain."""
        self.away_since = 0.0
        """When the present session began, while it is not open."""
        self.actions: list[Any] = []
        """The actions to perform next: `Connect`, `SendMessage`, and those of the owner."""
        self._stem = stem
        self._open_channel = open_channel
        self._wait = wait
        self._renew = renew
        self._failures = HandshakeFailures()
        self._dial_again = False
        self._suspension = SuspendDetector(0.0)
        self._greeted = self._dialed = 0.0

    @property
    def session_name(self) -> str:
        return f"{self._stem}.{self.number}"

    def open_talk(self) -> ReliableChannel[M] | None:
        """The channel of the present session, if it is open."""
        return self.talk if self.stage is _OPEN else None

    def begin(self, now: float) -> None:
        """Begin a session, the first or the next."""
        if self.stage is SessionStage.NEW:
            self._suspension = SuspendDetector(now)
        elif self._renew is not None:
            self._renew()
        self.away_since = now
        self.stage = SessionStage.GREETING
        self.number += 1
        self._dial(now)
        self._greet(now)

    def begin_local(self) -> None:
        """Begin a session by calls within this process, without a channel: it is open at once."""
        self.stage = _OPEN
        self.number += 1

    def welcome(self, name: str, lease: float, now: float) -> bool:
        """Open the session; False if this is the WELCOME of another session."""
        if self.stage is not SessionStage.GREETING or name != self.session_name:
            return False
        self.stage = SessionStage.OPEN
        self._failures.succeeded()
        self.talk = self._open_channel(lease, now)
        return True

    def turned_away(self, why: str, now: float) -> None:
        """A socket of the present session was rejected."""
        if self.stage is SessionStage.OPEN:
            self.begin(now)
        elif self.stage is SessionStage.GREETING:
            self._dial_again = True
        else:
            return
        self._failures.failed(why, now)
        self.barred = self._failures.believed(now)

    def tick(self, now: float) -> None:
        """Process the time: send again what was lost, or replace what does not work."""
        talk = self.open_talk()
        late = self._suspension.seconds(now, 8 * GREET_EVERY if talk is None else talk.lease)
        if late:
            self.away_since = min(now, self.away_since + late)
            if talk is not None:
                talk.postpone(late, now)
        if talk is not None:
            if self._renew is not None and talk.fault(now):
                self.begin(now)
                return
            talk.tick(now)
            if now >= max(talk.heard, self._dialed) + talk.lease:
                self._dial(now)
        elif self.stage is SessionStage.GREETING and now - self._greeted >= GREET_EVERY:
            if now - self._dialed >= DIAL_EVERY:
                self._dial(now)
            self._greet(now)

    def add(self, action: object) -> None:
        """Have the owner's `action` performed, after those before."""
        self.actions.append(action)

    def flush(self, now: float) -> list[Any]:
        """The actions to perform now."""
        actions, self.actions = self.actions, []
        if self.stage is _OPEN and self.talk is not None:
            actions += map(SendMessage, self.talk.flush(now))
        return actions

    def deadline(self, now: float) -> float:
        """When `tick`, `flush` or `lost` must be called next."""
        talk = self.talk
        if self.stage is _OPEN and talk is not None:
            heard, lease = talk.heard, talk.lease
            lost = heard + max(self._wait, lease / 2)
            due = min(max(heard, self._dialed) + lease, talk.out.when, talk.beat_at, lost)
        elif self.stage is SessionStage.GREETING:
            due = min(self._greeted + GREET_EVERY, self.away_since + self._wait)
        else:
            return now + IDLE
        self._suspension.due = due
        return due

    def away(self, now: float) -> float:
        """Seconds since the other side answered last; 0 if it answers."""
        talk = self.open_talk()
        if talk is not None:
            silence = now - talk.heard
            return silence if silence >= talk.lease / 2 else 0.0
        return now - self.away_since if self.stage is SessionStage.GREETING else 0.0

    def silent_since(self, moment: float) -> float:
        """Since when nothing has been received, `moment` at the earliest."""
        talk = self.open_talk()
        return moment if talk is None else max(moment, talk.heard)

    def lost(self, now: float) -> bool:
        """True if the other side has not answered for `wait` seconds."""
        return self.stage is not SessionStage.NEW and self.away(now) >= self._wait

    def _dial(self, now: float) -> None:
        self._dialed = now
        self.actions.append(Connect(self.session_name))

    def _greet(self, now: float) -> None:
        self._greeted = now
        if self._dial_again:
            self._dial_again = False
            self.actions.append(Connect(self.session_name))
        self.actions.append(SendMessage(Frame(0, 0, self.hello)))
