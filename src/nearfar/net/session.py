"""Sessions between two peers: begun, kept, renewed and lost. Pure.

The messages of a session travel in a `ReliableChannel` (`nearfar.net.reliable`). A session has a name, new
each time: that of its socket at the peer that connects. What that peer does (`ClientSession`)::

    NEW --begin--> GREETING --WELCOME--> OPEN        CLOSED is set by the owner
                      ^                   |
                      +----- STRANGER ----+

It sends HELLO until WELCOME comes, now and then over a new connection. A socket that was rejected is
replaced, until it is clear that the other side will never accept it. STRANGER, for a session that the other
side does not know (any more), begins the next one.

The other side has a `SessionTable`. A HELLO begins a session, and replaces the peer's earlier one; the owner
sends WELCOME. It ends when the peer leaves, its process is seen dead, it breaks the protocol, is silent for a
lease, or leaves what it was sent unacked for too long.

Neither side counts its own suspension as silence of the other. Times are in seconds of any steady clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from math import inf
from typing import Any, Generic, NamedTuple, TypeVar

from nearfar.net.handshake import HandshakeFailures
from nearfar.net.process import stem
from nearfar.net.reliable import Frame, ReliableChannel
from nearfar.net.resources import Budget
from nearfar.net.timers import SuspendDetector, Timers

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
            due = min(max(heard, self._dialed) + lease, talk.out.when, talk.heartbeat_at, lost)
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


AHEAD_OF_ALL = 256 << 20
"""Bytes of all peers' messages that came out of order: those beyond are dropped, and sent again."""


class SessionEnd(IntEnum):
    """How a session ended."""

    LEFT = 0
    """The peer said goodbye."""
    DIED = 1
    """The peer's process died, or is not admitted any more: the peer does not return."""
    LOST = 2
    """The peer was silent, or broke the protocol: it may return."""
    REPLACED = 3
    """The peer has begun another session."""


class SendTo(NamedTuple):
    """An action: send this to the socket of that name."""

    session: str
    envelope: Frame[Any]


@dataclass(slots=True, eq=False)
class ServerSession(Generic[M]):
    """One session: `name` is that of the peer's socket, `uid` the peer's own, which outlasts sessions."""

    name: str
    uid: str
    channel: ReliableChannel[M]
    renews: bool = field(default=False, init=False)
    """Whether the peer begins another session after it broke the protocol; else it would send the same."""
    due: float = field(default=inf, init=False)
    """When it must be looked at next, as set in `Timers`."""


S = TypeVar("S", bound=ServerSession[Any])


class SessionTable(Generic[S, M]):
    """The open sessions, at most `most`; and what is sent outside of them.

    `refusal` makes a REFUSED with that reason, `stranger` is a STRANGER. `end(session, why, how, now)` is
    called when the table ends a session: the owner forgets the peer, and calls `remove`. `why` is a clause.

    A session that received a message, or has some to send, must be in `touched`: `flush` looks at these.
    """

    def __init__(
        self,
        lease: float,
        most: int,
        refusal: Callable[[str], M],
        stranger: M,
        end: Callable[[S, str, SessionEnd, float], object],
    ) -> None:
        self.sessions: dict[str, S] = {}
        """By their names."""
        self.touched: dict[str, S] = {}
        """By their names; also sessions that have ended since, and have a last message to send."""
        self.timers: Timers[S] = Timers()
        """When to look at each session next."""
        self.actions: list[Any] = []
        """What to do before the sessions' messages are sent: `SendTo`, and actions of the owner."""
        self.most = most
        self.refused = self.malformed = self.nameless = 0
        """Peers that were refused; messages that could not be read, or that contradict the protocol; messages
        of connections without a name, or whose name another connection has taken over."""
        self.complaints: list[str] = []
        """What was wrong with peers' messages, until `take_complaints`."""
        self._lease = lease
        self._refusal = refusal
        self._stranger = stranger
        self._end = end
        self._names: dict[str, str] = {}
        """The name of each peer's session, by its uid."""
        self._ahead = Budget(AHEAD_OF_ALL)
        self._suspension: SuspendDetector | None = None

    def of(self, uid: str) -> S | None:
        """The present session of a peer."""
        return self.sessions.get(self._names.get(uid, ""))

    def admit(self, name: str, uid: str, now: float) -> bool:
        """End the earlier session of the peer that begins the session `name`. False if it was refused."""
        earlier = self.of(uid)
        if earlier is None and len(self.sessions) >= self.most:
            self.refuse(name, f"there are {len(self.sessions)} peers, as many as there may be")
            return False
        if earlier is not None and stem(earlier.name) != stem(name):
            self.refuse(name, "another peer has this name")
            return False
        if earlier is not None:
            self._end(earlier, "it began a new session", SessionEnd.REPLACED, now)
        return True

    def add(self, session: S) -> None:
        """Add a session, after `admit`."""
        self.sessions[session.name] = session
        self._names[session.uid] = session.name
        session.channel.inbox.allowance = (self._ahead, session.name)
        self._suspension = self._suspension or SuspendDetector(session.channel.heard)

    def remove(self, session: S) -> None:
        """Remove a session. What it has to send is still sent."""
        del self.sessions[session.name]
        session.channel.inbox.close()
        if self._names.get(session.uid) == session.name:
            del self._names[session.uid]

    def send_loose(self, name: str, message: M) -> None:
        """Send a message outside any session to the socket of that name."""
        self.actions.append(SendTo(name, Frame(0, 0, message)))

    def refuse(self, name: str, why: str) -> None:
        """Tell the peer behind a socket why it is not served."""
        self.refused += 1
        self.send_loose(name, self._refusal(why))

    def disown(self, name: str) -> None:
        """Tell the peer behind a socket that it has no session."""
        self.send_loose(name, self._stranger)

    def dead(self, name: str, why: str, now: float, how: SessionEnd = SessionEnd.DIED) -> None:
        """End a session, if it is open."""
        session = self.sessions.get(name)
        if session is not None:
            self._end(session, why, how, now)

    def expel(self, name: str, why: str, now: float) -> None:
        """End a session whose peer is not admitted any more, and tell the peer."""
        self.dead(name, why, now)
        self.disown(name)

    def give_up(self, name: str, why: str, now: float) -> None:
        """End a session whose peer broke the protocol, and tell the peer."""
        self.malformed += 1
        self.complaints.append(why)
        session = self.sessions.get(name)
        self.dead(name, "it broke the protocol", now, SessionEnd.LOST)
        if session is not None and session.renews:
            self.disown(name)
        else:
            self.refuse(name, f"it broke the protocol: {why}")

    def figures(self) -> dict[str, int]:
        """What was not accepted, in figures."""
        return {"malformed": self.malformed, "nameless": self.nameless, "refused": self.refused}

    def take_complaints(self) -> list[str]:
        """What was wrong with peers' messages since the last call, for the log."""
        taken, self.complaints = self.complaints, []
        return taken

    def tick(self, now: float) -> float:
        """Send again what was lost, and end the sessions of silent peers.

        Returns for how many seconds this process was suspended just before: it received nothing, so no peer
        was silent then.
        """
        suspended = self._suspension.seconds(now, self._lease) if self._suspension else 0.0
        if suspended:
            for session in self.sessions.values():
                session.channel.postpone(suspended, now)
        for session in [*self.timers.ring(now), *self.touched.values()]:
            if self.sessions.get(session.name) is not session:
                continue
            if fault := session.channel.fault(now):
                self._end(session, f"it was {fault}", SessionEnd.LOST, now)
                continue
            session.channel.tick(now)
            self.touched[session.name] = session
        return suspended

    def flush(self, now: float) -> list[Any]:
        """The actions to perform now."""
        actions, self.actions = self.actions, []
        for name, session in self.touched.items():
            channel = session.channel
            for frame in channel.flush(now):
                actions.append(SendTo(name, frame))
            if (due := channel.deadline()) < session.due:
                self.timers.set(session, due)
        self.touched.clear()
        return actions
