"""The coordinator's protocol with agents and clients, as a pure state machine: messages in, messages out.

::

    receive --> sessions, channels --> Agents (workers come, answer, die)          --> Scheduler
                                       RemoteClients (clients submit, cancel)      -->     |
    flush  <--- PoolSessions <-- AgentSession (a Link), RemoteTask (outcomes) <------------+

`receive`, `tick` and `table` take events and the time (seconds, any steady clock). Then the driver of the
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
from nearfar.coordinator.sessions import PeerSession, PoolSessions
from nearfar.coordinator.status import status_row
from nearfar.errors import ProtocolError
from nearfar.net.process import BYTECODE, PYTHON
from nearfar.net.reliable import Frame
from nearfar.net.resources import EACH
from nearfar.net.session import SendTo, SessionEnd

MOST_PYTHONS = 16
"""Bytecode formats that are distinguished."""


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
        self.put_off = 0
        """Messages put off because there was no room for their arguments."""
        self.notices: list[str] = []
        """What the operator should know, but is not an error, for the log."""
        self._pythons: dict[str, dict[str, str]] = {AGENT: {}, CLIENT: {}}
        """By role, the bytecode formats and Python versions that peers reported."""
        if not clients:
            self._pythons[CLIENT][BYTECODE] = PYTHON  # the pool in this process
        self._lease = lease
        self._clients = clients
        self.table = PoolSessions(lease, most_peers, now, self._end)
        self.sessions = self.table.sessions
        """By the names of their sockets."""
        self._accounts = PayloadBytes(most_bytes)
        self._remote_clients = RemoteClients(self.table, coordinator, lease, now, self._accounts)
        self._agents = Agents(self.table, coordinator, self._remote_clients)
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
        self.table.now = now
        message = envelope.message
        kind, _, rows, _ = message
        session = self.sessions.get(name)
        if session is None or kind is PoolMessageType.HELLO or kind is PoolMessageType.QUERY:
            self._receive_loose(name, message)
            return
        self.table.touched[name] = session
        if kind is PoolMessageType.SUBMIT and not self._remote_clients.has_room(
            session, rows or (), messages.weigh(message)
        ):
            # As if it had been lost: the client sends it again, until there is room.
            self.put_off += 1
            envelope = Frame(0, envelope.ack, PoolMessage(PoolMessageType.HEARTBEAT))
        for message in session.channel.hear(envelope, now):
            if self.sessions.get(name) is not session:
                return
            try:
                self._handle(session, message)
            except ProtocolError as error:
                self.table.give_up(name, f"{session.uid}: {error}", now)
                return
        if session.flying and session.flying[0][0] <= session.channel.out.received:
            self.table.acked(session)
        told = session.told
        if told and told[0][0] <= session.channel.out.received and self.sessions.get(name) is session:
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
            self.table.say(session, PoolMessageType.PART)
            self._end(session, "it left", SessionEnd.LEFT, self.table.now)
        elif rows is None:
            handle(session.peer, *fields)
        else:
            handle(session.peer, *fields, rows)

    def _receive_loose(self, name: str, message: PoolMessage) -> None:
        """Process a message outside any session, or one that opens a session."""
        if message.kind is PoolMessageType.HELLO:
            self._hello(name, message)
        elif message.kind is PoolMessageType.QUERY:
            if self.table.may_tell_status():
                rows = self.status(self.table.now)
                self.table.send_loose(name, PoolMessage(PoolMessageType.STATUS, (self.counts(),), rows))
        else:
            if message.kind is PoolMessageType.ANSWERS:
                self.table.stale += len(message.rows or ())
            self.table.disown(name)

    def tick(self, now: float) -> None:
        """Process the time: resend what was lost, end the sessions of silent peers."""
        self.table.now = now
        self.table.tick(now)
        self._remote_clients.tick()

    def flush(self, now: float) -> list[SendTo]:
        """The messages to send, each with the name of its socket."""
        self.table.now = now
        self._remote_clients.flush()
        if now >= self._remote_clients.releases.due:
            self._agents.release()
        return self.table.flush(now)

    def deadline(self, now: float) -> float:
        """When `tick` must be called next, as of the last `flush`."""
        due = self.table.timers.deadline()
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
        return not any(session.channel.out for session in self.sessions.values())

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
            "stale": coordinator.book.stale + self.table.stale,
        } | self.table.figures()

    def status(self, now: float) -> list[Row]:
        """A row of each worker: name, host, pid, tasks answered, what it runs (or ""), seconds so far."""
        return [status_row(worker, now) for worker in islice(self.coordinator.workers.values(), MOST_ROWS)]

    # -- sessions ----------------------------------------------------------------------------------

    def _hello(self, name: str, message: PoolMessage) -> None:
        version, role, uid, about = message.fields
        if refusal := self._refusal(version, role):
            self.table.refuse(name, refusal)
            return
        now = self.table.now
        if name not in self.sessions:
            if not self.table.admit(name, uid, now):
                return
            session = PeerSession(name, role, uid, about, open_channel(self._lease, now))
            session.handlers = self._handlers[role]
            try:
                (self._agents if role == AGENT else self._remote_clients).arrive(session)
            except ProtocolError as error:
                self.table.refuse(name, str(error))
                return
            self.table.add(session)
            self.table.touched[name] = session
            self._compare(session)
        facts = {
            "epoch": self.epoch,
            "lease": self._lease,
            "workers": len(self.coordinator.workers),
            "largest": max(0, self._accounts.largest - EACH),
        }
        self.table.send_loose(name, PoolMessage(PoolMessageType.WELCOME, (name, facts)))

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

    def _refusal(self, version: int, role: str) -> str:
        if version != VERSION:
            return messages.refusal(version)
        if role == CLIENT and not self._clients:
            return "this coordinator is a pool's own: it takes agents (nearfar worker), and no clients"
        return ""

    def _end(self, session: PeerSession, why: str, how: SessionEnd, now: float) -> None:
        self.table.now = now
        self.table.remove(session)
        if session.role == AGENT:
            self._agents.depart(session.name, f"was lost with its agent: {why}")
        elif how is not SessionEnd.REPLACED:
            self._remote_clients.depart(
                session.uid, f"its client was lost: {why}" if how is SessionEnd.LOST else ""
            )
