"""The sessions of agents and clients with a coordinator, and the messages to send in them. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from nearfar.coordinator.large_parts import Row
from nearfar.coordinator.messages import (
    VERSION,
    PoolChannel,
    PoolFrame,
    PoolMessage,
    PoolMessageType,
    open_channel,
    weigh,
)
from nearfar.net.reliable import Frame
from nearfar.net.session import ClientSession
from nearfar.net.timers import Timers


def client_session(
    role: str, name: str, about: dict[str, Any], wait: float, stem: str = ""
) -> ClientSession[PoolMessage]:
    """The session of an agent or a client (`role`) with a coordinator. `name` is new for every one; `about`
    are its facts in HELLO."""
    hello = PoolMessage(PoolMessageType.HELLO, (VERSION, role, name, about))
    return ClientSession(stem or name, hello, open_channel, wait)


class PeerSession:
    """One session of an agent or a client: `name` is its socket's, `uid` its own, which outlasts sessions."""

    __slots__ = (
        "bytecode",
        "due",
        "flying",
        "flying_bytes",
        "handled",
        "handlers",
        "host",
        "most_bytes",
        "name",
        "peer",
        "pid",
        "python",
        "quota",
        "role",
        "talk",
        "told",
        "uid",
        "words",
    )

    def __init__(self, name: str, role: str, uid: str, about: dict[str, Any], talk: PoolChannel) -> None:
        self.name = name
        self.role = role
        self.uid = uid
        self.host = str(about.get("host", ""))
        self.pid = int(about.get("pid", 0))
        self.python = str(about.get("python", ""))
        self.bytecode = str(about.get("bytecode", ""))
        self.quota = int(about.get("quota", 0)) or None
        self.most_bytes = int(about.get("bytes", 0))
        """The most bytes of answers that an agent may keep; 0: any number."""
        self.talk = talk
        self.peer: Any = None
        """The `AgentSession` or `RemoteClient` of this session."""
        self.handlers: dict[PoolMessageType, Callable[..., None]] = {}
        """Handlers of messages; their arguments are the peer, the fields, and the rows, if there are some."""
        self.due = inf
        """Its deadline, as recorded in `Timers`."""
        self.handled: set[int] = set()
        """Tasks of a message that was put off which were handled already, as they needed no room."""
        self.words: deque[PoolMessage] = deque()
        """The messages to send, in order; numbered when they are sent."""
        self.flying: deque[tuple[int, int]] = deque()
        """Messages sent and not acked: their numbers and bytes."""
        self.flying_bytes = 0
        self.told: deque[tuple[int, Sequence[Row]]] = deque()
        """The OUTCOMES that were sent and not acked: their messages' numbers and rows."""


WINDOW = 8 << 20
"""Bytes that ZeroMQ and the kernel hold for one peer. Further messages wait here, where they are stored
once, even if the others are sent several times."""
STATUS_PER_SECOND = 100
"""Status requests answered per second; a client without an answer asks again."""


class SessionTable:
    """The open sessions. `say` may be called at any time; `flush` returns the messages to send."""

    def __init__(self, now: float) -> None:
        self.sessions: dict[str, PeerSession] = {}
        self.timers: Timers[PeerSession] = Timers()
        """The deadline of each session."""
        self.stale = 0
        """Answers of workers for which no task is known."""
        self.now = now
        """The time of the event being processed."""
        self.touched: dict[str, PeerSession] = {}
        """Sessions with received messages or messages to send: `flush` checks these."""
        self._status_since = float("-inf")
        self._status_told = 0
        self._loose: list[tuple[str, PoolFrame]] = []

    def of(self, role: str, uid: str) -> PeerSession | None:
        """The present session of a peer."""
        return next((s for s in self.sessions.values() if s.uid == uid and s.role == role), None)

    def say(
        self, session: PeerSession, kind: PoolMessageType, *fields: Any, rows: Sequence[Row] | None = None
    ) -> None:
        """Queue a message in a session, after all earlier ones; it is sent even if the session ends now."""
        session.words.append(PoolMessage(kind, fields, rows))
        self.touched[session.name] = session

    def reply(
        self, name: str, kind: PoolMessageType, *fields: Any, rows: Sequence[Row] | None = None
    ) -> None:
        """Queue a message to a socket, outside any session."""
        self._loose.append((name, Frame(0, 0, PoolMessage(kind, fields, rows))))

    def may_tell_status(self) -> bool:
        """False if the status was sent too often recently."""
        if self.now - self._status_since >= 1.0:
            self._status_since, self._status_told = self.now, 0
        self._status_told += 1
        return self._status_told <= STATUS_PER_SECOND

    def flush(self, now: float) -> list[tuple[str, PoolFrame]]:
        """The messages to send, with the name of the session's socket."""
        ready, self._loose = self._loose, []
        for name, session in self.touched.items():
            talk = session.talk
            if session.words or (session.flying and session.flying[0][0] <= talk.out.received):
                self._say_some(session, now)
            for envelope in talk.flush(now):
                ready.append((name, envelope))
            due = talk.deadline()
            if due < session.due:
                self.timers.set(session, due)
        self.touched.clear()
        return ready

    def _say_some(self, session: PeerSession, now: float) -> None:
        """Send messages while the window has room."""
        flying, words, talk = session.flying, session.words, session.talk
        acked = talk.out.received
        while flying and flying[0][0] <= acked:
            session.flying_bytes -= flying.popleft()[1]
        while words and session.flying_bytes < WINDOW:
            message = words.popleft()
            number = talk.send(message, now)
            if message.kind is PoolMessageType.OUTCOMES:
                session.told.append((number, message.rows or ()))
            if size := weigh(message):
                flying.append((number, size))
                session.flying_bytes += size
