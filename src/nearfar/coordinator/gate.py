"""The socket of a coordinator: reads what agents and clients say, and sends what is to be said."""

from __future__ import annotations

import contextlib
import logging
import secrets
import select
import time
from collections.abc import Callable
from typing import Any, TypeVar

import zmq

from nearfar.coordinator import wire
from nearfar.coordinator.machine import Coordinator
from nearfar.coordinator.peers import Peers
from nearfar.coordinator.wire import Envelope, Kind
from nearfar.errors import NearfarError, ProtocolError
from nearfar.net import descriptors, sockets
from nearfar.net.access import Access
from nearfar.net.addresses import Address
from nearfar.net.complaints import Complaints, shown
from nearfar.net.door import Door
from nearfar.net.memory import Trim
from nearfar.net.shortage import Mishaps
from nearfar.net.watch import Watch

T = TypeVar("T")

log = logging.getLogger(__name__)

DRAIN = 256
"""Messages read in one turn."""
DESCRIPTORS = 2
"""That a peer takes here: its connection, and what tells of its process's death."""
LONGEST_NOTICE = 500
"""Characters of a notice in the log."""
BESIDE = 4 << 20
"""Bytes that a frame may have besides one task's, or one answer's: those of other rows."""
SMALL = 2
"""Frames of a message without large parts, its sender's name among them."""
FEW_NAMES = 64
"""Names of sessions that are over, or never were, which may be remembered."""
DOOR_EVERY = 0.1
"""Seconds after which a turn looks whether there is something to be done at the door, though nothing told."""


class Gate:
    """Binds `address` for a coordinator. Driven from outside, by one thread at a time.

    A turn of whoever drives it::

        poll fileno() for reading, until deadline(), unless pending()
        turn(now) -> Coordinator.tick(now), Coordinator.flush(now) -> tell Coordinator.outcomes -> say(now)

    `access` says who gets in: whoever does can run any code in the workers. `lease` is in seconds, and more
    than the largest message takes to travel. `clients` says whether it takes clients besides agents.
    `max_bytes`: see `LoneCoordinator`. Raises `AddressError` for an address that cannot be bound, and
    `KeysError`.
    """

    def __init__(
        self,
        address: Address,
        coordinator: Coordinator,
        access: Access,
        *,
        lease: float = 10.0,
        clients: bool = False,
        max_bytes: int = 0,
    ) -> None:
        descriptors.make_room(descriptors.SERVICE, "a coordinator")
        descriptors.lift_limit()  # as for a queue's host
        self._room = descriptors.Room(DESCRIPTORS)
        self._door = Door(access)
        # tasks and answers travel here: who announces a frame with more than may be taken in is cut off
        largest = min(sockets.LARGEST_FRAME, max_bytes // 4 + BESIDE) if max_bytes else sockets.LARGEST_FRAME
        self._socket = self._door.make(zmq.ROUTER, largest)
        try:
            self.address = self._door.bind(self._socket, address)
        except NearfarError:
            self._socket.close()
            self._door.close()
            raise
        if access.insecure:
            log.warning("everyone who can reach the pool at %s can run any code in its workers", self.address)
        now = time.monotonic()
        most = sockets.most_peers(DESCRIPTORS)
        epoch = secrets.token_hex(8)
        self.peers = Peers(
            coordinator,
            epoch,
            lease=lease,
            clients=clients,
            now=now,
            most_peers=most,
            most_bytes=max_bytes,
        )
        self._trim = Trim()
        self._complaints = Complaints(log)
        self._mishaps = Mishaps(log, f"the coordinator at {self.address}")
        self._next_tick = now
        self._due = now
        self._names: dict[bytes, str] = {}
        """The names of sessions, as their messages bring them."""
        self._door_at = now
        """When the door is to have its turn."""
        self._watch = Watch()
        self._poll = select.epoll()
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        self._unread = True
        """Whether messages may lie here, of which the descriptor has not told since."""
        self._doors: set[int] = set()
        """The descriptors that tell of something for the door."""
        if self._door.questions is not None:
            self._doors.add(int(self._door.questions.getsockopt(zmq.FD)))
        if self._door.arrivals is not None:
            self._doors.add(self._door.arrivals)
        for descriptor in {self._descriptor} | self._doors:
            self._poll.register(descriptor, select.EPOLLIN)

    def fileno(self) -> int:
        """A descriptor that becomes readable when there may be something to read.

        ZeroMQ's part of it says so once for many messages, so ask `pending` before each wait.
        """
        return self._poll.fileno()

    def pending(self) -> bool:
        """True if messages lie here to be read: the next `turn` reads them."""
        try:
            self._unread = sockets.readable(self._socket)
        except sockets.FAILURES as error:
            self._mishaps.note(error)
            self._unread = True
        return self._unread

    def deadline(self) -> float:
        """When `turn` is wanted at the latest (`time.monotonic`), as far as the last `say` knew."""
        return self._due

    def turn(self, now: float) -> None:
        """Take in what has come, and what has become of those who are silent or dead. Never blocks, and
        raises nothing for what fails in it: what was not read lies here still."""
        told: list[tuple[int, int]] = []
        try:
            told = self._poll.poll(0)
        except sockets.FAILURES as error:
            self._mishaps.note(error)
        if now >= self._door_at or (self._doors and not self._doors.isdisjoint([each for each, _ in told])):
            self._door_at = now + DOOR_EVERY
            self._try(self._keep_the_door, now)
        if told or self._unread:
            self._read(now)
        for descriptor, _ in told:
            if descriptor != self._descriptor and descriptor not in self._doors:
                self._try(self._see_death, descriptor, now)
        if now >= self._next_tick:
            self.peers.tick(now)
            self._try(self._forget_idle)
            self._trim.look(self.peers.bytes, now)

    def say(self, now: float) -> None:
        """Send all that is to be said. Never blocks, and raises nothing: what matters is sent again by its
        line."""
        for name, envelope in self.peers.flush(now):
            self._send(name, envelope)
        self._due = self._next_tick = self.peers.deadline(now)
        if (door := self._door.deadline()) is not None:
            self._door_at = min(self._door_at, door)
            self._due = min(self._due, door)

    def counts(self) -> dict[str, int]:
        """The coordinator in figures."""
        return self.peers.counts() | {"turned away": self._door.turned_away}

    def close(self) -> None:
        """Close the socket; agents and clients take the coordinator for lost."""
        for close in (self._poll.close, self._watch.close):
            self._try(close)
        self._try(self._door.unbind, self._socket, self.address)
        self._try(self._door.close)

    # -- inside ------------------------------------------------------------------------------------

    def _try(self, do: Callable[..., T], *given: object) -> T | None:
        """What `do` returns; None if it fails."""
        try:
            return do(*given)
        except sockets.FAILURES as error:
            self._mishaps.note(error)
            return None

    def _read(self, now: float) -> None:
        made, door = self._socket, self._door
        try:
            for _ in range(DRAIN):
                user, first = door.receive(made) if door.guarded else ("", None)
                name, *frames = sockets.receive(made, SMALL, first)
                if not door.guarded or door.admits(user):
                    self._receive(user, name, frames, now)
        except zmq.Again:
            self._unread = False
        except sockets.FAILURES as error:
            self._mishaps.note(error)

    def _keep_the_door(self, now: float) -> None:
        """End the sessions of whose key was revoked, as if they had died."""
        for session in self._door.turn(now, self.peers.sessions):
            self.peers.expel(session, "was lost: its agent's key was revoked", now)

    def _receive(self, user: str, name: bytes, frames: list[bytes | memoryview], now: float) -> None:
        """Nothing that a peer says ends this thread."""
        session = ""
        try:
            session = self._names.get(name) or self._peer_name(name)
            if self._door.guarded:
                self._door.check_session(session, user, self.peers.sessions)
            envelope = wire.unpack(frames)
            if envelope.message.kind is not Kind.HELLO or session in self.peers.sessions:
                self.peers.receive(session, envelope, now)
            else:
                self._let_in(session, envelope, now)
        except wire.WrongHello as error:
            self.peers.malformed += 1
            self._complaints.note("refused a peer: %s", error, now)
            self.peers.refuse(session, error.why)
        except sockets.Nameless:
            self.peers.nameless += 1
        except ProtocolError as error:
            self.peers.malformed += 1
            self._complaints.note("dropped a malformed message: %s", error, now)
        except Exception:  # a fault of ours, which one peer found: it is not to cost the others theirs
            log.exception("what %s said could not be taken in", shown(session))
            self.peers.give_up(session, "the coordinator failed to understand it")
        if self.peers.complaints or self.peers.notices:
            for fault in self.peers.take_complaints():
                self._complaints.note("ended a session: %s", fault, now)
            for notice in self.peers.take_notices():
                log.warning("%s", shown(notice, LONGEST_NOTICE))

    def _peer_name(self, name: bytes) -> str:
        """The session of who calls by this name. Raises `ProtocolError` for a name that is none."""
        session = sockets.peer_name(name)
        if len(self._names) > 2 * len(self.peers.sessions) + FEW_NAMES:
            self._names.clear()
        self._names[name] = session
        return session

    def _let_in(self, session: str, hello: Envelope, now: float) -> None:
        """One who is not known yet says HELLO."""
        if self._room.lacks(self._descriptor, now):
            if self._room.refuses(now):
                self.peers.refuse(session, self._room.REFUSAL)
            return
        self.peers.receive(session, hello, now)
        if session in self.peers.sessions:
            self._watch_process(session, hello.message.fields[3])
        if len(self._watch) > len(self.peers.sessions):
            self._forget_idle()

    def _watch_process(self, session: str, about: dict[str, Any]) -> None:
        """Where it cannot be watched, its silence will tell."""
        descriptor = self._watch.add(session, about)
        if descriptor is not None:
            try:
                self._poll.register(descriptor, select.EPOLLIN)
            except OSError as error:
                self._watch.ended(descriptor)
                self._mishaps.note(error)

    def _forget_idle(self) -> None:
        for descriptor in self._watch.idle(self.peers.sessions):
            self._unregister(descriptor)
            self._watch.ended(descriptor)

    def _unregister(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):  # closed next, and then gone from there, but for a forked child's
            self._poll.unregister(descriptor)

    def _see_death(self, descriptor: int, now: float) -> None:
        self._unregister(descriptor)
        found = self._watch.ended(descriptor)
        if found is not None:
            session, pid = found
            self.peers.dead(session, f"was lost with its agent, process {pid}", now)

    def _send(self, name: str, envelope: Envelope) -> None:
        try:
            sockets.send(self._socket, [name.encode(), *wire.pack(*envelope)], SMALL)
        except zmq.Again:
            pass  # its peer does not read, or is gone
        except sockets.FAILURES as error:
            self._mishaps.note(error)
