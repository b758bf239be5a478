"""The sessions at a coordinator, and what is to be said in them. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from nearfar.coordinator.parts import Row
from nearfar.coordinator.talk import Talk, weight
from nearfar.coordinator.wire import Envelope, Kind, Message
from nearfar.net.dues import Dues


class Session:
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

    def __init__(self, name: str, role: str, uid: str, about: dict[str, Any], talk: Talk) -> None:
        self.name = name
        self.role = role
        self.uid = uid
        self.host = str(about.get("host", ""))
        self.pid = int(about.get("pid", 0))
        self.python = str(about.get("python", ""))
        self.bytecode = str(about.get("bytecode", ""))
        self.quota = int(about.get("quota", 0)) or None
        self.most_bytes = int(about.get("bytes", 0))
        """Bytes of answers that an agent may keep; 0: any number."""
        self.talk = talk
        self.peer: Any = None
        """What it is the session of: an `Agent`, or a `Guest`."""
        self.handlers: dict[Kind, Callable[..., None]] = {}
        """What is done with a message: of the peer, its fields, and its rows if it has some."""
        self.due = inf
        """When it wants the clock, as far as `Dues` knows."""
        self.handled: set[int] = set()
        """Tasks in messages that were put off, but for which no room was needed: not to be handled again."""
        self.words: deque[Message] = deque()
        """What is to be said, in order; numbered when it goes."""
        self.flying: deque[tuple[int, int]] = deque()
        """What went and is not known to have arrived: numbers of messages, and their bytes."""
        self.flying_bytes = 0
        self.told: deque[tuple[int, Sequence[Row]]] = deque()
        """The OUTCOMES said and not seen to be acked: their messages' numbers and rows."""


WINDOW = 8 << 20
"""Bytes on their way to one peer, in the hands of ZeroMQ and the kernel. What is over waits here, where it
lies once, however often the rest is sent again."""
STATUS_PER_SECOND = 100
"""Answers to who asks for the status; who gets none asks again."""


class Desk:
    """`say` may be called at any time; `flush` gives what goes out."""

    def __init__(self, now: float) -> None:
        self.sessions: dict[str, Session] = {}
        self.dues: Dues[Session] = Dues()
        """When each session wants the clock."""
        self.stale = 0
        """Answers of workers that are nobody's."""
        self.now = now
        """Of the event in hand."""
        self.touched: dict[str, Session] = {}
        """Heard from, or with something to be said: what `flush` looks at."""
        self._status_since = float("-inf")
        self._status_told = 0
        self._loose: list[tuple[str, Envelope]] = []

    def of(self, role: str, uid: str) -> Session | None:
        """The present session of a peer."""
        return next((s for s in self.sessions.values() if s.uid == uid and s.role == role), None)

    def say(self, session: Session, kind: Kind, *fields: Any, rows: Sequence[Row] | None = None) -> None:
        """Say this in its session, after all that was said before; said even if the session ends now."""
        session.words.append(Message(kind, fields, rows))
        self.touched[session.name] = session

    def reply(self, name: str, kind: Kind, *fields: Any, rows: Sequence[Row] | None = None) -> None:
        """Say this to a socket, outside of any session."""
        self._loose.append((name, Envelope(0, 0, Message(kind, fields, rows))))

    def may_tell_status(self) -> bool:
        """False if the status was told too often lately."""
        if self.now - self._status_since >= 1.0:
            self._status_since, self._status_told = self.now, 0
        self._status_told += 1
        return self._status_told <= STATUS_PER_SECOND

    def flush(self, now: float) -> list[tuple[str, Envelope]]:
        """What is to be sent, with the name of the session's socket."""
        ready, self._loose = self._loose, []
        for name, session in self.touched.items():
            talk = session.talk
            if session.words or (session.flying and session.flying[0][0] <= talk.out.received):
                self._say_some(session, now)
            for envelope in talk.flush(now):
                ready.append((name, envelope))
            due = talk.deadline()
            if due < session.due:
                self.dues.set(session, due)
        self.touched.clear()
        return ready

    def _say_some(self, session: Session, now: float) -> None:
        """Say what is to be said, as long as not too much is on its way."""
        flying, words, talk = session.flying, session.words, session.talk
        acked = talk.out.received
        while flying and flying[0][0] <= acked:
            session.flying_bytes -= flying.popleft()[1]
        while words and session.flying_bytes < WINDOW:
            message = words.popleft()
            kind, fields, rows = message
            number = talk.say(now, kind, *fields, rows=rows)
            if kind is Kind.OUTCOMES:
                session.told.append((number, rows or ()))
            if rows and (size := weight(message)):
                flying.append((number, size))
                session.flying_bytes += size
