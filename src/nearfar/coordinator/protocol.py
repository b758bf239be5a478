"""The coordinator's protocol with agents and clients, as a pure state machine: messages in, messages out.

::

    receive --> sessions, channels --> Agents (workers come, answer, die)          --> Scheduler
                                       RemoteClients (clients submit, cancel)      -->     |
    flush  <--- SessionTable <-- AgentSession (a Link), RemoteTask (outcomes) <------------+

`receive`, `dead` and `tick` take events and the time (seconds, any steady clock). Then the driver of the
machines calls `Scheduler.flush`, delivers `Scheduler.outcomes` to their tasks, and sends what `flush`
returns."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from nearfar.coordinator import messages
from nearfar.coordinator.agents import Agents
from nearfar.coordinator.large_parts import AGENT, CLIENT, MOST_ROWS, Row
from nearfar.coordinator.messages import VERSION, PoolFrame, PoolMessage, PoolMessageType, open_channel
from nearfar.coordinator.remote_client import PayloadBytes
from nearfar.coordinator.remote_clients import RemoteClients
from nearfar.coordinator.scheduler import Scheduler
from nearfar.coordinator.sessions import PeerSession, SessionTable
from nearfar.coordinator.status import status_row
from nearfar.errors import ProtocolError
from nearfar.net.process import BYTECODE, PYTHON, stem
from nearfar.net.reliable import Frame
from nearfar.net.resources import EACH, Budget

MOST_PYTHONS = 16
"""Bytecode formats that are distinguished."""

AHEAD_OF_ALL = 64 << 20
"""Bytes of messages of all sessions that came out of order; further ones are dropped, and sent again."""


class CoordinatorProtocol:
    """`epoch` is a unique name for this run of the coordinator. `lease` is in seconds.

    `clients`: whether it accepts remote clients; a pool's own coordinator only serves that pool.
    `most_peers`: the most agents and clients with a session at a time. `most_bytes`: the bound of arguments
    and results that it keeps for clients (`PayloadBytes`; 0: any number). `receive` raises nothing: a peer
    whose messages contradict the state loses its session.
    """

    def __init__(
        self,
        coordinator: Scheduler,
        epoch: str,
        *,
        lease: float,
        clients: bool,
        now: float,
        most_peers: int = 4096,
        most_bytes: int = 0,
    ) -> None:
        self.coordinator = coordinator
        self.epoch = epoch
        self.malformed = 0
        """Frames that could not be read (counted by their reader), and messages that contradict the state."""
        self.nameless = 0
        """Messages of connections without a name, or whose name another connection has taken over."""
        self.refused = 0
        """Peers that were refused."""
        self.put_off = 0
        """Messages put off because there was no room for their arguments."""
        self.complaints: list[str] = []
        """What was wrong with peers' messages, for the log."""
        self.notices: list[str] = []
        """What the operator should know, but is not an error, for the log."""
        self._most_peers = most_peers
        self._pythons: dict[str, dict[str, str]] = {AGENT: {}, CLIENT: {}}
        """By role, the bytecode formats and Python versions that peers reported."""
        if not clients:
            self._pythons[CLIENT][BYTECODE] = PYTHON  # the pool in this process
        self._lease = lease
        self._clients = clients
        self._ticked = now
        self._session_table = SessionTable(now)
        self.sessions = self._session_table.sessions
        """By the names of their sockets."""
        self._accounts = PayloadBytes(most_bytes)
        self._ahead = Budget(AHEAD_OF_ALL)
        self._remote_clients = RemoteClients(self._session_table, coordinator, lease, now, self._accounts)
        self._agents = Agents(self._session_table, coordinator, self._remote_clients)
        self._handlers: dict[str, dict[PoolMessageType, Callable[..., None]]] = {
            AGENT: {
                PoolMessageType.CAME: self._agents.came,
                PoolMessageType.ANSWERS: self._agents.answers,
                PoolMessageType.KEPT: self._agents.kept,
                PoolMessageType.DIED: self._agents.died,
                PoolMessageType.RETURNED: self._agents.returned,
                PoolMessageType.LEAVING: self._agents.leaving,
                PoolMessageType.MEMORY: self._agents.memory,
            },
            CLIENT: {
                PoolMessageType.JOIN: self._remote_clients.join,
                PoolMessageType.SUBMIT: self._remote_clients.submit,
                PoolMessageType.CANCEL: self._remote_clients.cancel,
            },
        }

    @property
    def bytes(self) -> int:
        """Bytes of arguments and results that are kept for clients."""
        return self._accounts.arguments.used + self._accounts.results.used

    # -- events ------------------------------------------------------------------------------------

    def receive(self, name: str, envelope: PoolFrame, now: float) -> None:
        """Process a message from the socket of that name."""
        self._session_table.now = now
        message = envelope.message
        kind, _, rows, _ = message
        session = self.sessions.get(name)
        if session is None or kind is PoolMessageType.HELLO or kind is PoolMessageType.QUERY:
            self._receive_loose(name, message)
            return
        self._session_table.touched[name] = session
        if kind is PoolMessageType.SUBMIT and not self._remote_clients.has_room(
            session, rows or (), messages.weigh(message)
        ):
            # As if it had been lost: the client sends it again, until there is room.
            self.put_off += 1
            envelope = Frame(0, envelope.ack, PoolMessage(PoolMessageType.BEAT))
        for message in session.talk.hear(envelope, now):
            if self.sessions.get(name) is not session:
                return
            try:
                self._handle(session, message)
            except ProtocolError as error:
                self.give_up(name, f"{session.uid}: {error}")
                return
        told = session.told
        if told and told[0][0] <= session.talk.out.received and self.sessions.get(name) is session:
            self._remote_clients.heard(session)
        if self._remote_clients.lists.held_back:
            self._remote_clients.reconsider()

    def _handle(self, session: PeerSession, message: PoolMessage) -> None:
        kind, fields, rows, _ = message
        handle = session.handlers.get(kind)
        if handle is None:
            if kind is not PoolMessageType.BYE:
                raise ProtocolError(
                    f"{'an agent' if session.role == AGENT else 'a client'} does not say {kind.name}"
                )
            self._session_table.say(session, PoolMessageType.PART)
            self._end(session, "was left by its agent", for_good=True)
        elif rows is None:
            handle(session.peer, *fields)
        else:
            handle(session.peer, *fields, rows)

    def _receive_loose(self, name: str, message: PoolMessage) -> None:
        """Process a message outside any session, or one that opens a session."""
        if message.kind is PoolMessageType.HELLO:
            self._hello(name, message)
        elif message.kind is PoolMessageType.QUERY:
            if self._session_table.may_tell_status():
                self._session_table.reply(
                    name, PoolMessageType.STATUS, self.counts(), rows=self.status(self._session_table.now)
                )
        else:
            if message.kind is PoolMessageType.ANSWERS:
                self._session_table.stale += len(message.rows or ())
            self._session_table.reply(name, PoolMessageType.STRANGER)

    def dead(self, name: str, why: str, now: float) -> None:
        """The process of a session's peer died."""
        self._session_table.now = now
        session = self.sessions.get(name)
        if session is not None:
            self._end(session, why, for_good=True)

    def expel(self, name: str, why: str, now: float) -> None:
        """End a session from this side, and tell its peer."""
        if name in self.sessions:
            self.dead(name, why, now)
            self._session_table.reply(name, PoolMessageType.STRANGER)

    def tick(self, now: float) -> None:
        """Process the time: resend what was lost, end the sessions of silent peers.

        If `tick` was not called for long, this process was stopped and received nothing: no peer was silent.
        """
        self._session_table.now = now
        stood = now - self._ticked
        self._ticked = now
        if stood > self._lease / 2:
            for session in self.sessions.values():
                session.talk.postpone(stood, now)
        for session in self._session_table.timers.ring(now):
            if self.sessions.get(session.name) is not session:
                continue
            if fault := session.talk.fault(now):
                self._end(session, fault, for_good=False)
                continue
            session.talk.tick(now)
            self._session_table.touched[session.name] = session
        self._remote_clients.tick()

    def flush(self, now: float) -> list[tuple[str, PoolFrame]]:
        """The messages to send, each with the name of its socket."""
        self._session_table.now = now
        self._remote_clients.flush()
        if now >= self._remote_clients.releases.due:
            self._agents.release()
        return self._session_table.flush(now)

    def deadline(self, now: float) -> float:
        """When `tick` must be called next, as of the last `flush`."""
        due = self._session_table.timers.deadline()
        if due is None:
            due = now + self._lease / 4
        if self._remote_clients.lists.expected and (expected := self._remote_clients.deadline()) is not None:
            due = min(due, expected)
        return min(due, self._remote_clients.releases.due)

    def settled(self) -> bool:
        """True if every client has all its outcomes."""
        return self._remote_clients.settled()

    def heard(self) -> bool:
        """True if every peer has acked every message."""
        return not any(session.talk.out for session in self.sessions.values())

    # -- figures -----------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """The coordinator in figures."""
        coordinator = self.coordinator
        workers = coordinator.workers.values()
        return {
            "agents": len(self._agents.all),
            "clients": len(self._remote_clients.all),
            "workers": len(workers),
            "running": sum(1 for worker in workers if worker.batches),
            "waiting": sum(len(client.waiting) for client in coordinator.book.clients.values()),
            "held": sum(len(remote_client.held) for remote_client in self._remote_clients.all.values()),
            "held back": sum(client.held_back for client in coordinator.book.clients.values()),
            "put off": self.put_off,
            "bytes": self.bytes,
            "done": coordinator.book.done,
            "lost": coordinator.book.lost,
            "stale": coordinator.book.stale + self._session_table.stale,
            "malformed": self.malformed,
            "nameless": self.nameless,
            "refused": self.refused,
        }

    def status(self, now: float) -> list[Row]:
        """A row of each worker: name, host, pid, tasks answered, what it runs (or ""), seconds so far."""
        return [status_row(worker, now) for worker in islice(self.coordinator.workers.values(), MOST_ROWS)]

    # -- sessions ----------------------------------------------------------------------------------

    def _hello(self, name: str, message: PoolMessage) -> None:
        version, role, uid, about = message.fields
        if refusal := self._refusal(version, role):
            self.refuse(name, refusal)
            return
        if name not in self.sessions:
            try:
                talk = open_channel(self._lease, self._session_table.now)
                self._begin(PeerSession(name, role, uid, about, talk))
            except ProtocolError as error:
                self.refuse(name, str(error))
                return
        facts = {
            "epoch": self.epoch,
            "lease": self._lease,
            "workers": len(self.coordinator.workers),
            "largest": max(0, self._accounts.largest - EACH),
        }
        self._session_table.reply(name, PoolMessageType.WELCOME, name, facts)

    def _begin(self, session: PeerSession) -> None:
        """Raises `ProtocolError` if the session is not acceptable."""
        earlier = self._session_table.of(session.role, session.uid)
        if earlier is None and len(self.sessions) >= self._most_peers:
            raise ProtocolError(f"there are {len(self.sessions)} agents and clients, as many as there may be")
        if earlier is not None:
            if stem(earlier.name) != stem(session.name):
                raise ProtocolError("another one has this name")
            self._leave(earlier)
            self._agents.depart(earlier.name, "was abandoned by its agent, which started a new session")
        session.handlers = self._handlers[session.role]
        (self._agents if session.role == AGENT else self._remote_clients).arrive(session)
        self.sessions[session.name] = session
        session.talk.inbox.allowance = (self._ahead, session.name)
        self._session_table.touched[session.name] = session
        self._compare(session)

    def _compare(self, session: PeerSession) -> None:
        """Report once that clients and workers of different Pythons cannot exchange functions by value."""
        own, others = self._pythons[session.role], self._pythons[CLIENT if session.role == AGENT else AGENT]
        if not session.bytecode or session.bytecode in own or len(own) >= MOST_PYTHONS:
            return
        own[session.bytecode] = session.python
        for bytecode, python in others.items():
            if bytecode != session.bytecode:
                self.notices.append(
                    f"{session.role} {session.uid} runs {session.python}, others run {python}: between these,"
                    " functions and classes of a script are refused; those of modules that both have work"
                )

    def take_notices(self) -> list[str]:
        """What the operator should know, but is not an error, since the last call, for the log."""
        taken, self.notices = self.notices, []
        return taken

    def take_complaints(self) -> list[str]:
        """What was wrong with peers' messages since the last call, for the log."""
        taken, self.complaints = self.complaints, []
        return taken

    def _refusal(self, version: int, role: str) -> str:
        if version != VERSION:
            return messages.refusal(version)
        if role == CLIENT and not self._clients:
            return "this coordinator is a pool's own: it takes agents (nearfar worker), and no clients"
        return ""

    def give_up(self, name: str, why: str) -> None:
        """End a session that broke the protocol."""
        self.malformed += 1
        self.complaints.append(why)
        session = self.sessions.get(name)
        if session is not None:
            self._end(session, "was disconnected, because its agent broke the protocol", for_good=False)
        self._session_table.reply(name, PoolMessageType.STRANGER)

    def refuse(self, name: str, why: str) -> None:
        """Refuse the peer of that name."""
        self.refused += 1
        self._session_table.reply(name, PoolMessageType.REFUSED, why)

    def _end(self, session: PeerSession, why: str, *, for_good: bool) -> None:
        """`for_good`: its peer will not return under its name."""
        self._leave(session)
        if session.role == AGENT:
            self._agents.depart(session.name, why)
        else:
            self._remote_clients.depart(session.uid, "" if for_good else f"its client was {why}")

    def _leave(self, session: PeerSession) -> None:
        del self.sessions[session.name]
        session.talk.inbox.close()
