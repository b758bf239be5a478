"""The bound side of a service: makes its sockets, authenticates peers, and limits connections whose
handshake has not ended.

Connections whose handshake has not ended: how many a service has at a time, and which it closes.

ZeroMQ accepts whoever connects, in a thread of its own, and knows no limit but the descriptors that the
process may have; a connection that says nothing keeps one for `sockets.HANDSHAKE` milliseconds. So somebody
without a key could use up all of them, and nothing that needs one would work any more. Here the service's
loop looks how many there are, and shuts down what is too much: first of the address that has most of them,
and there of those that have said least. ZeroMQ then closes them, as if the other side had.

How far a connection is, the kernel tells (tcp(7), TCP_INFO): by CURVE, only one who was let in is ever sent
more than a greeting, a WELCOME and an ERROR; without, only who has said more than a greeting is taken for a
peer.

The bound side: makes a service's sockets, and answers for who gets in.

With keys, ZeroMQ asks before it ends a handshake (ZAP, RFC 27). The question is answered here, in the loop of
the service itself; therefore the service has a ZeroMQ context of its own. Whoever was let in is known in each
of its messages: a key that is revoked is heard no more, though its connections stay.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import socket
import stat
import struct
import time
from collections.abc import Container, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.utils import z85

from nearfar.errors import AddressError, ProtocolError
from nearfar.net import addresses, resources, sockets
from nearfar.net.addresses import Address
from nearfar.net.auth import SERVER, Access, AllowedClients, check_guarded, read_pair
from nearfar.net.frames import PERIOD, ProtocolErrors

MOST = 256
"""Connections of a service that have not ended their handshake: with few descriptors, a quarter of those that
the process may have."""
RESERVE = 64
"""Descriptors that they leave to others, at most: an eighth of those that the process may have."""
LEAST_RESERVE = 16
"""The same, at least."""
SENT_TO_PEERS = 270
"""Bytes: by CURVE, one who is not let in is sent 64 (greeting), 170 (WELCOME) and 12 (ERROR); a READY has at
least 51."""
SAID_BY_PEERS = 80
"""Bytes: without keys, a peer says a greeting of 64, and a READY of at least 27."""
REST = 4
"""A look takes at most one part in so many of the time."""

_INFO = struct.Struct("=120x2Q")
"""Of TCP_INFO: the bytes that were sent and acked, and those that were received."""

log = logging.getLogger(__name__)


class HalfOpenConnection(NamedTuple):
    """One that has not ended its handshake."""

    descriptor: int
    inode: int
    whence: str
    said: int
    """Bytes."""


class HalfOpenConnections:
    """Looks after the ports of one service. For one thread at a time; nothing here blocks or raises, but to
    make it and `watch`: `OSError`.

    It looks at other connections through one descriptor that it has from the beginning, and so needs none
    when there are none; and it shuts down nothing but what it has just seen to be a connection to one of its
    ports.
    """

    def __init__(self, *, curve: bool) -> None:
        self.closed = 0
        """Connections that were too much."""
        self._curve = curve
        self._ports: dict[int, int] = {}
        """With a descriptor of the socket that listens, or -1."""
        self._arrivals = select.epoll()
        # of a family whose addresses are the longest: they are cut off to its own
        self._looking = socket.socket(socket.AF_INET6, fileno=socket.socket().detach())
        """Not connected: what is looked at takes its place for a moment."""
        self._others = 0
        """Descriptors of this process, as the last look found, without those of half-open connections."""
        self._next = 0.0
        self._due = True
        self._complaints = ProtocolErrors(
            log, "closed connections that do not say who they are %d more times"
        )

    def fileno(self) -> int:
        """A descriptor to poll for reading: somebody connects to one of the ports that are watched."""
        return self._arrivals.fileno()

    def add(self, port: int) -> None:
        """Look after connections to `port`, too."""
        self._ports.setdefault(port, -1)

    def watch(self, port: int) -> None:
        """The same, and at once when somebody connects: it takes a descriptor more."""
        self.add(port)
        for descriptor, _ in self._sockets(_all_open()):
            if self._looking.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                self._ports[port] = os.dup(descriptor)
                self._arrivals.register(self._ports[port], select.EPOLLIN | select.EPOLLET)
                break
        self._rest()

    def remove(self, port: int) -> None:
        """Look after `port` no more; before ZeroMQ closes it, or it would stay open."""
        descriptor = self._ports.pop(port, -1)
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                self._arrivals.unregister(descriptor)
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def deadline(self) -> float | None:
        """When `turn` is wanted for those who came right after a look."""
        return self._next if self._due else None

    def turn(self, now: float) -> None:
        """Look, if somebody has connected, or it is `due`."""
        with contextlib.suppress(OSError):
            self._due = bool(self._arrivals.poll(0)) or self._due
        if self._due and now >= self._next:
            self.look(now)

    def look(self, now: float) -> None:
        """Close what is too much."""
        self._due = False
        self._complaints.tick(now)
        began = time.monotonic()
        limit = resources.limit()
        lowest = resources.lowest_free(self._looking.fileno())
        most = min(MOST, limit // 4)
        full = lowest - (limit - max(LEAST_RESERVE, min(RESERVE, limit // 8)))
        if full <= 0 and lowest - self._others < most:
            return
        found = self._half_open(lowest)
        self._others = lowest - len(found)
        surplus = max(len(found) - most, min(full, len(found)))
        if surplus > 0:
            self._close(_last_in_line(found)[:surplus], now)
        self._rest()
        self._next = now + REST * (time.monotonic() - began)

    def close(self) -> None:
        for port in list(self._ports):
            self.remove(port)
        self._arrivals.close()
        self._looking.close()

    # -- inside ------------------------------------------------------------------------------------

    def _half_open(self, lowest: int) -> list[HalfOpenConnection]:
        found = []
        for descriptor, inode in self._sockets(range(lowest)):
            with contextlib.suppress(OSError, struct.error):
                if self._looking.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    continue
                info = self._looking.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
                sent, said = _INFO.unpack(info)
                if sent < SENT_TO_PEERS if self._curve else said < SAID_BY_PEERS:
                    found.append(HalfOpenConnection(descriptor, inode, self._whence(), said))
        return found

    def _sockets(self, among: Iterator[int] | range) -> Iterator[tuple[int, int]]:
        """Those `among` others that are sockets at one of our ports, with their inodes; while one is
        given, `_looking` is it."""
        for descriptor in among:
            if descriptor == self._looking.fileno():
                continue
            with contextlib.suppress(OSError):
                # First: to close another descriptor of a file would let go of the process's locks on it.
                if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    continue
                os.dup2(descriptor, self._looking.fileno(), inheritable=False)
                name = self._looking.getsockname()
                if isinstance(name, tuple) and len(name) in (2, 4) and name[1] in self._ports:
                    yield descriptor, os.fstat(self._looking.fileno()).st_ino

    def _whence(self) -> str:
        """The address of the other side; of one of IPv6, the network."""
        host = str(self._looking.getpeername()[0]).removeprefix("::ffff:")
        return host if "." in host else socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8].hex()

    def _close(self, surplus: list[HalfOpenConnection], now: float) -> None:
        expected = {each.descriptor: each for each in surplus}
        for descriptor, inode in self._sockets(iter(sorted(expected))):
            if inode == expected[descriptor].inode:
                with contextlib.suppress(OSError):
                    self._looking.shutdown(socket.SHUT_RDWR)
                    self.closed += 1
        whence = ", ".join(sorted({each.whence for each in surplus})[:3])
        said = f"{len(surplus)} of {whence}"
        self._complaints.note("too many connections that do not say who they are; closed %s", said, now)

    def _rest(self) -> None:
        """Let go of what was looked at last."""
        with contextlib.suppress(OSError):
            os.dup2(self._arrivals.fileno(), self._looking.fileno(), inheritable=False)


def _last_in_line(connections: list[HalfOpenConnection]) -> list[HalfOpenConnection]:
    """Those to be closed first come first: of the address that has most, one after the other."""
    by_address: dict[str, list[HalfOpenConnection]] = {}
    for each in sorted(connections, key=lambda each: (-each.said, random.random())):
        by_address.setdefault(each.whence, []).append(each)
    ranked = [
        (rank, random.random(), each) for crowd in by_address.values() for rank, each in enumerate(crowd, 1)
    ]
    return [each for _, _, each in sorted(ranked, reverse=True)]


def _all_open() -> Iterator[int]:
    with os.scandir("/proc/self/fd") as entries:
        names = [int(entry.name) for entry in entries]
    return iter(sorted(names))


REFRESH_EVERY = 0.5
"""Seconds between two looks whether a key was revoked."""
LOOK_EVERY = 5.0
"""Seconds between two looks whether the socket files of loopback addresses are still there, at least."""
MOST_TOLD = 1000
"""Keys that were turned away and are remembered, so that each is told of once; of no more than
`complaints.MOST_LINES` in a minute."""
EVERYBODY = "everybody"
"""The domain of a socket that is for all who are let in; another one's is the key that it is for."""
VERSION = b"1.0"
"""Of the questions, RFC 27."""
CREDENTIALS = 6
"""The place of a client's key among the frames of a question."""


class Authenticator:
    """For one thread at a time. Raises `KeysError`."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.guarded = bool(access.keys)
        """Whether who gets in is known by a key."""
        self.turned_away = 0
        """Handshakes that were refused."""
        self._told: set[str] = set()
        self._complaints = ProtocolErrors(
            log, f"turned away %d more connections with unknown keys in the last {PERIOD:.0f} s"
        )
        self._clients: AllowedClients | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._zap: zmq.Socket[bytes] | None = None
        self._refresh_at = 0.0
        self._swept = False
        self._users: dict[str, str] = {}
        """Who speaks in a session."""
        self._held: dict[zmq.Socket[bytes], tuple[socket.socket, list[str]]] = {}
        """Of each socket that stands in for a loopback port: what holds that, and its paths."""
        self._look_at = 0.0
        self._half_open: HalfOpenConnections | None = None
        if access.keys:
            self._pair = read_pair(Path(access.keys), SERVER)
            self._clients = AllowedClients(Path(access.keys))
            self._context = sockets.new_context()
            # no REP: that hears nothing any more once an answer could not be sent
            self._zap = sockets.make(zmq.ROUTER, within=self._context)
            self._zap.bind("inproc://zeromq.zap.01")

    # -- sockets -----------------------------------------------------------------------------------

    @property
    def questions(self) -> zmq.Socket[bytes] | None:
        """To be polled for reading: call `turn` then."""
        return self._zap

    @property
    def arrivals(self) -> int | None:
        """The same; a descriptor."""
        return None if self._half_open is None else self._half_open.fileno()

    def make(self, kind: int, largest: int = sockets.LARGEST_FRAME) -> zmq.Socket[bytes]:
        """A socket to bind through this door; it takes frames of at most `largest` bytes."""
        return sockets.make(kind, largest=largest, within=self._context)

    def bind(self, made: zmq.Socket[bytes], address: Address, *, only: str = "") -> Address:
        """Bind, and return the address with the port it got.

        `only`: for the one user who speaks in that session. Raises `AddressError`.
        """
        check_guarded(address, self.access)
        if self._context is not None:
            sockets.guard(made, self._pair, domain=self._users.get(only) or EVERYBODY)
        elif self.access.own:
            return self._bind_own(made, address)
        bound = sockets.bind(made, address)
        if not bound.path:
            self._look_after(bound.port, at_once=not only)
        return bound

    def bind_in(
        self,
        made: zmq.Socket[bytes],
        beside: Address,
        ports: range | None,
        suffix: str,
        *,
        only: str = "",
    ) -> int | str:
        """As `sockets.bind_in`, and `bind`."""
        return sockets.bind_in(made, beside, ports, suffix, bind=partial(self.bind, only=only))

    def unbind(self, made: zmq.Socket[bytes], beside: Address, place: int | str = "") -> None:
        """Close a socket that `bind` (or, with its place, `bind_in`) bound, and remove its files."""
        if (held := self._held.pop(made, None)) is not None:
            port, paths = held
            for path in paths:
                addresses.remove(path)
            port.close()
        elif self._half_open is not None:
            self._half_open.remove(place if isinstance(place, int) else beside.port)
        sockets.close_bound(made, beside, place)

    def close(self) -> None:
        """When all sockets are closed."""
        if self._half_open is not None:
            self._half_open.close()
        if self._zap is not None and self._context is not None:
            self._zap.close()
            self._context.term()

    def _bind_own(self, made: zmq.Socket[bytes], address: Address) -> Address:
        if address.path:
            sockets.guard_own(made)
            return sockets.bind(made, address)
        if not self._swept:
            self._swept = True
            addresses.sweep()
        sockets.guard_own(made)
        port = sockets.hold(address)
        try:
            bound = address.beside(port.getsockname()[1])
            addresses.clear(bound)
            twin = sockets.bind(made, addresses.place_of(bound))
        except BaseException:
            port.close()
            raise
        self._held[made] = port, [twin.path]
        return bound

    # -- who gets in -------------------------------------------------------------------------------

    def turn(self, now: float, known: Container[str]) -> list[str]:
        """Answer what is asked, and look for changes; returns which of the `known` sessions are to end."""
        self._keep_twins(now)
        self._complaints.tick(now)
        if self._half_open is not None:
            if now >= self._refresh_at:
                self._half_open.look(now)
            self._half_open.turn(now)
        if self._clients is None or self._zap is None:
            if now >= self._refresh_at:
                self._refresh_at = now + REFRESH_EVERY
            return []
        gone: set[str] = set()
        asked = sockets.readable(self._zap)
        if asked or now >= self._refresh_at:
            self._refresh_at = now + REFRESH_EVERY
            gone = self._clients.refresh()
            for key in gone:
                log.warning("a key was revoked: %s is let in no more", key)
        with contextlib.suppress(zmq.Again):
            while asked:
                self._answer(self._zap, self._zap.recv_multipart(zmq.NOBLOCK), now)
        if not gone:
            return []
        self._keep_users(known)
        return [session for session, user in self._users.items() if user in gone]

    def _keep_twins(self, now: float) -> None:
        """Bind anew, besides, what stands in for a loopback port and whose file is gone: a runtime folder
        goes when its user's last session ends. Who is connected stays so."""
        if not self._held or now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY
        for made, (port, paths) in self._held.items():
            if not os.path.lexists(paths[-1]):
                with contextlib.suppress(AddressError, OSError):
                    host, number = port.getsockname()[:2]
                    paths.append(sockets.bind(made, addresses.place_of(Address(host=host, port=number))).path)

    def deadline(self) -> float | None:
        """When `turn` is wanted next."""
        if self._half_open is None:
            return None if self._clients is None else self._refresh_at
        due = self._half_open.deadline()
        return self._refresh_at if due is None else min(due, self._refresh_at)

    def admits(self, user: str) -> bool:
        """Whether a message of that user is to be heard."""
        return self._clients is None or user in self._clients.names

    def check_session(self, session: str, user: str, known: Container[str]) -> None:
        """Raises `ProtocolError` where `user` speaks in the session of another; one that is not among the
        `known` is theirs from now on."""
        if self._clients is None:
            return
        if session not in known:
            self._users[session] = user
            if len(self._users) > 2 * sockets.MOST_PEERS:
                self._keep_users(known)
        elif self._users.get(session) != user:
            raise ProtocolError("a message in the session of another")

    def receive(self, made: zmq.Socket[bytes]) -> tuple[str, bytes]:
        """The user and the first frame of the next message. Raises `zmq.Again` if there is none."""
        if self._clients is None:
            return "", made.recv(zmq.NOBLOCK)
        frame = made.recv(zmq.NOBLOCK, copy=False)
        try:
            return str(frame.get("User-Id")), frame.bytes
        except (zmq.ZMQError, KeyError):  # nobody got in without one
            return "", frame.bytes

    def _keep_users(self, known: Container[str]) -> None:
        self._users = {session: user for session, user in self._users.items() if session in known}

    def _look_after(self, port: int, *, at_once: bool) -> None:
        """See to it that who connects to `port` and never ends a handshake takes no more than a few
        descriptors. Raises `AddressError` where there are none for that."""
        try:
            if self._half_open is None:
                self._half_open = HalfOpenConnections(curve=self._clients is not None)
            if at_once:
                self._half_open.watch(port)
            else:
                self._half_open.add(port)
        except OSError as error:
            raise AddressError(f"cannot look after port {port}: {error.strerror}") from None

    def _answer(self, zap: zmq.Socket[bytes], frames: list[bytes], now: float) -> None:
        """Answer a question whether to let somebody in: who asks, an empty frame, and what RFC 27 says."""
        way, question = frames[:2], frames[2:]
        if len(question) < CREDENTIALS or way[1] or question[0] != VERSION:
            return  # the rest of one whose reading failed: it is asked again, with the next handshake
        version, number, domain, address, _, mechanism, *credentials = question
        key = z85.encode(credentials[0]).decode() if mechanism == b"CURVE" and credentials else ""
        known = self._clients is not None and key in self._clients.names
        if known and domain.decode() in (EVERYBODY, key):
            zap.send_multipart([*way, version, number, b"200", b"OK", key.encode(), b""])
            return
        zap.send_multipart([*way, version, number, b"400", b"this key is not let in", b"", b""])
        self.turned_away += 1
        if key in self._told:
            self._complaints.note_again(now)
        else:
            if len(self._told) >= MOST_TOLD:
                self._told.clear()
            self._told.add(key)
            whence = address.decode("ascii", "replace").removeprefix("::ffff:")
            self._complaints.note("turned away %s", f"{whence} with the unknown key {key}", now)
