"""The socket of a coordinator: reads what agents and clients say, and sends what is to be said."""

from __future__ import annotations

import contextlib
import logging
import secrets
import select
import time

import zmq

from nearfar.coordinator import wire
from nearfar.coordinator.machine import Coordinator
from nearfar.coordinator.peers import Peers
from nearfar.coordinator.wire import Envelope
from nearfar.errors import NearfarError, ProtocolError
from nearfar.net import sockets
from nearfar.net.access import Access
from nearfar.net.addresses import Address
from nearfar.net.complaints import Complaints, shown
from nearfar.net.door import Door
from nearfar.net.memory import Trim
from nearfar.net.watch import Watch

log = logging.getLogger(__name__)

DRAIN = 256
"""Messages read in one turn."""
DESCRIPTORS = 2
"""That a peer takes here: its connection, and what tells of its process's death."""
BESIDE = 4 << 20
"""Bytes that a frame may have besides one task's, or one answer's: those of other rows."""
SMALL = 3
"""Frames of a message without large parts, its sender's name among them."""


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
        self._next_tick = now
        self._watch = Watch()
        self._poll = select.epoll()
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        self._poll.register(self._descriptor, select.EPOLLIN)
        self._unread = True
        """Whether messages may lie here, of which the descriptor has not told since."""
        self._questions = -1
        if self._door.questions is not None:
            self._questions = int(self._door.questions.getsockopt(zmq.FD))
            self._poll.register(self._questions, select.EPOLLIN)

    def fileno(self) -> int:
        """A descriptor that becomes readable when there may be something to read.

        ZeroMQ's part of it says so once for many messages, so ask `pending` before each wait.
        """
        return self._poll.fileno()

    def pending(self) -> bool:
        """True if messages lie here to be read: the next `turn` reads them."""
        self._unread = sockets.readable(self._socket)
        return self._unread

    def deadline(self) -> float:
        """When `turn` is wanted at the latest (`time.monotonic`)."""
        refresh = self._door.deadline()
        return self._next_tick if refresh is None else min(self._next_tick, refresh)

    def turn(self, now: float) -> None:
        """Take in what has come, and what has become of those who are silent or dead. Never blocks."""
        self._keep_the_door(now)
        told = [descriptor for descriptor, _ in self._poll.poll(0)]
        if told or self._unread:
            self._read(now)
        for descriptor in told:
            if descriptor not in (self._descriptor, self._questions):
                self._see_death(descriptor, now)
        if now >= self._next_tick:
            self.peers.tick(now)
            self._forget_idle()

    def say(self, now: float) -> None:
        """Send all that is to be said. Never blocks."""
        for name, envelope in self.peers.flush(now):
            self._send(name, envelope)
        self._next_tick = self.peers.deadline(now)
        self._trim.look(self.peers.bytes, now)

    def counts(self) -> dict[str, int]:
        """The coordinator in figures."""
        return self.peers.counts() | {"turned away": self._door.turned_away}

    def close(self) -> None:
        """Close the socket; agents and clients take the coordinator for lost."""
        self._poll.close()
        self._watch.close()
        self._door.unbind(self._socket, self.address)
        self._door.close()

    # -- inside ------------------------------------------------------------------------------------

    def _read(self, now: float) -> None:
        heard = 0
        with contextlib.suppress(zmq.Again):
            while heard < DRAIN:
                user, first = self._door.receive(self._socket)
                name, *frames = sockets.receive(self._socket, SMALL, first)
                heard += 1
                if self._door.admits(user):
                    self._receive(user, name, frames, now)

    def _keep_the_door(self, now: float) -> None:
        """End the sessions of whose key was revoked, as if they had died."""
        for session in self._door.turn(now, self.peers.sessions):
            self.peers.expel(session, "was lost: its agent's key was revoked", now)

    def _receive(
        self, user: str, name: bytes | memoryview, frames: list[bytes | memoryview], now: float
    ) -> None:
        """Nothing that a peer says ends this thread."""
        session = ""
        try:
            session = sockets.peer_name(name)
            self._door.check_session(session, user, self.peers.sessions)
            self._hear(session, wire.unpack(frames), now)
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
        for fault in self.peers.take_complaints():
            self._complaints.note("ended a session: %s", fault, now)

    def _hear(self, session: str, envelope: Envelope, now: float) -> None:
        known = session in self.peers.sessions
        self.peers.receive(session, envelope, now)
        if not known and session in self.peers.sessions:
            descriptor = self._watch.add(session, envelope.message.fields[3])
            if descriptor is not None:
                self._poll.register(descriptor, select.EPOLLIN)
        if len(self._watch) > len(self.peers.sessions):
            self._forget_idle()

    def _forget_idle(self) -> None:
        for descriptor in self._watch.idle(self.peers.sessions):
            self._poll.unregister(descriptor)
            self._watch.ended(descriptor)

    def _see_death(self, descriptor: int, now: float) -> None:
        self._poll.unregister(descriptor)
        found = self._watch.ended(descriptor)
        if found is not None:
            session, pid = found
            self.peers.dead(session, f"was lost with its agent, process {pid}", now)

    def _send(self, name: str, envelope: Envelope) -> None:
        with contextlib.suppress(zmq.Again):
            sockets.send(self._socket, [name.encode(), *wire.pack(*envelope)], SMALL)
