"""The sessions of agents and clients with a coordinator, and the messages to send in them. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from nearfar.coordinator.large_parts import AGENT, Row
from nearfar.coordinator.messages import (
    VERSION,
    PoolChannel,
    PoolMessage,
    PoolMessageType,
    open_channel,
    weigh,
)
from nearfar.net.session import ClientSession, ServerSession, SessionEnd, SessionTable


def client_session(
    role: str, name: str, about: dict[str, Any], wait: float, stem: str = ""
) -> ClientSession[PoolMessage]:
    """The session of an agent or a client (`role`) with a coordinator. `name` is new for every one; `about`
    are its facts in HELLO."""
    hello = PoolMessage(PoolMessageType.HELLO, (VERSION, role, name, about))
    return ClientSession(stem or name, hello, open_channel, wait)


class PeerSession(ServerSession[PoolMessage]):
    """One session of an agent or a client (`role`)."""

    __slots__ = (
        "bytecode",
        "flying",
        "flying_bytes",
        "handled",
        "handlers",
        "host",
        "most_bytes",
        "peer",
        "pid",
        "python",
        "quota",
        "role",
        "told",
        "words",
    )

    def __init__(self, name: str, role: str, uid: str, about: dict[str, Any], channel: PoolChannel) -> None:
        super().__init__(name, uid, channel)
        self.renews = role == AGENT
        self.role = role
        self.host = str(about.get("host", ""))
        self.pid = int(about.get("pid", 0))
        self.python = str(about.get("python", ""))
        self.bytecode = str(about.get("bytecode", ""))
        self.quota = int(about.get("quota", 0)) or None
        self.most_bytes = int(about.get("bytes", 0))
        """The most bytes of answers that an agent may keep; 0: any number."""
        self.peer: Any = None
        """The `AgentSession` or `RemoteClient` of this session."""
        self.handlers: dict[PoolMessageType, Callable[..., None]] = {}
        """Handlers of messages; their arguments are the peer, the fields, and the rows, if there are some."""
        self.handled: set[int] = set()
        """Tasks of a message that was put off which were handled already, as they needed no room."""
        self.words: deque[PoolMessage] = deque()
        """The messages that wait for the window, in order; numbered when they are sent."""
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


class PoolSessions(SessionTable[PeerSession, PoolMessage]):
    """The sessions of a coordinator. `say` may be called at any time."""

    def __init__(
        self,
        lease: float,
        most: int,
        now: float,
        end: Callable[[PeerSession, str, SessionEnd, float], object],
    ) -> None:
        super().__init__(lease, most, _refusal, PoolMessage(PoolMessageType.STRANGER), end)
        self.stale = 0
        """Answers of workers for which no task is known."""
        self.now = now
        """The time of the event being processed."""
        self._status_since = float("-inf")
        self._status_told = 0

    def say(
        self, session: PeerSession, kind: PoolMessageType, *fields: Any, rows: Sequence[Row] | None = None
    ) -> None:
        """Send a message in a session, after all earlier ones; it is sent even if the session ends now."""
        message = PoolMessage(kind, fields, rows)
        if session.words or session.flying_bytes >= WINDOW:
            session.words.append(message)
        else:
            self._send(session, message)
        self.touched[session.name] = session

    def acked(self, session: PeerSession) -> None:
        """The peer has acked messages with bytes: send others while the window has room."""
        flying, words, acked = session.flying, session.words, session.channel.out.received
        while flying and flying[0][0] <= acked:
            session.flying_bytes -= flying.popleft()[1]
        while words and session.flying_bytes < WINDOW:
            self._send(session, words.popleft())

    def _send(self, session: PeerSession, message: PoolMessage) -> None:
        number = session.channel.send(message, self.now)
        if message.kind is PoolMessageType.OUTCOMES:
            session.told.append((number, message.rows or ()))
        if size := weigh(message):
            session.flying.append((number, size))
            session.flying_bytes += size

    def may_tell_status(self) -> bool:
        """False if the status was sent too often recently."""
        if self.now - self._status_since >= 1.0:
            self._status_since, self._status_told = self.now, 0
        self._status_told += 1
        return self._status_told <= STATUS_PER_SECOND


def _refusal(why: str) -> PoolMessage:
    return PoolMessage(PoolMessageType.REFUSED, (why,))
