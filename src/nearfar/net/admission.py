"""The bound side of a service: makes its sockets, authenticates peers, and limits half-open connections.

With keys, ZeroMQ asks before it completes a handshake (ZAP, RFC 27). The `Authenticator` answers in the loop
of the service itself; therefore the service has its own ZeroMQ context. Each message carries the key of its
sender, so messages with a revoked key are dropped although its connections remain.

A connection is half-open until its handshake is complete. ZeroMQ accepts every connection, in a thread of its
own, limited only by the process's descriptors; a silent connection occupies one for `sockets.HANDSHAKE`
milliseconds. So a client without a key could use up all descriptors. Therefore the service's loop counts the
half-open connections and shuts down the surplus (`HalfOpenConnections`): first those of the address that has
most of them, and of these the ones that have sent least. ZeroMQ then closes them, as if the other side had.

The kernel shows how far a handshake is (tcp(7), TCP_INFO): with CURVE, only an admitted peer is ever sent
more than a greeting, a WELCOME and an ERROR; without, a connection counts as a peer once it has sent more
than a greeting.
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
from nearfar.net.validation import PERIOD, ProtocolErrors

MOST = 256
"""Half-open connections of a service, at most; also at most a quarter of the process's descriptors."""
RESERVE = 64
"""Descriptors that half-open connections leave free: an eighth of the process's, but at most so many."""
LEAST_RESERVE = 16
"""The lower bound of that."""
SENT_TO_PEERS = 270
"""Bytes: with CURVE, a peer that is not admitted is sent 64 (greeting), 170 (WELCOME) and 12 (ERROR); a READY
has at least 51."""
SAID_BY_PEERS = 80
"""Bytes: without keys, a peer sends a greeting of 64, and a READY of at least 27."""
REST = 4
"""Checks take at most one part in so many of the time."""

_INFO = struct.Struct("=120x2Q")
"""Fields of TCP_INFO: the bytes sent and acked, and the bytes received."""

log = logging.getLogger(__name__)


class HalfOpenConnection(NamedTuple):
    """A connection whose handshake is not complete."""

    descriptor: int
    inode: int
    whence: str
    said: int
    """Bytes received from it."""


class HalfOpenConnections:
    """Limits the half-open connections to the ports of one service. For one thread at a time. Nothing here
    blocks; only the constructor and `watch` raise `OSError`.

    It inspects connections through one descriptor that it has from the beginning, and so needs none when none
    are left. It shuts down only what it has just identified as a connection to one of its ports.
    """

    def __init__(self, *, curve: bool) -> None:
        self.closed = 0
        """Surplus connections that were closed."""
        self._curve = curve
        self._ports: dict[int, int] = {}
        """Each port, with a descriptor of its listening socket, or -1."""
        self._arrivals = select.epoll()
        # AF_INET6, whose addresses are the longest: Python truncates names to the family's length
        self._looking = socket.socket(socket.AF_INET6, fileno=socket.socket().detach())
        """Not connected: each inspected descriptor is duplicated onto it for a moment."""
        self._others = 0
        """Descriptors of this process at the last check, without those of half-open connections."""
        self._next = 0.0
        self._due = True
        self._complaints = ProtocolErrors(log, "closed half-open connections %d more times")

    def fileno(self) -> int:
        """A descriptor that is readable when a client connects to one of the watched ports."""
        return self._arrivals.fileno()

    def add(self, port: int) -> None:
        """Limit connections to `port`, too."""
        self._ports.setdefault(port, -1)

    def watch(self, port: int) -> None:
        """As `add`, but with a check at each new connection, which takes one more descriptor."""
        self.add(port)
        for descriptor, _ in self._sockets(_all_open()):
            if self._looking.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                self._ports[port] = os.dup(descriptor)
                self._arrivals.register(self._ports[port], select.EPOLLIN | select.EPOLLET)
                break
        self._rest()

    def remove(self, port: int) -> None:
        """Forget `port`; must be called before ZeroMQ closes it, or it would stay open."""
        descriptor = self._ports.pop(port, -1)
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                self._arrivals.unregister(descriptor)
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def deadline(self) -> float | None:
        """When to call `turn` for connections that came right after a check."""
        return self._next if self._due else None

    def turn(self, now: float) -> None:
        """Check if there is a new connection, or if a check is due."""
        with contextlib.suppress(OSError):
            self._due = bool(self._arrivals.poll(0)) or self._due
        if self._due and now >= self._next:
            self.look(now)

    def look(self, now: float) -> None:
        """Count half-open connections, and close the surplus."""
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
        """The descriptors `among` these that are sockets of our ports, with their inodes; `_looking` is a
        duplicate of the one just yielded."""
        for descriptor in among:
            if descriptor == self._looking.fileno():
                continue
            with contextlib.suppress(OSError):
                # Check first: closing another descriptor of a file would release the process's locks on it.
                if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    continue
                os.dup2(descriptor, self._looking.fileno(), inheritable=False)
                name = self._looking.getsockname()
                if isinstance(name, tuple) and len(name) in (2, 4) and name[1] in self._ports:
                    yield descriptor, os.fstat(self._looking.fileno()).st_ino

    def _whence(self) -> str:
        """The address of the other side; for IPv6, its network."""
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
        self._complaints.note("too many half-open connections; closed %s", said, now)

    def _rest(self) -> None:
        """Release the connection that was inspected last."""
        with contextlib.suppress(OSError):
            os.dup2(self._arrivals.fileno(), self._looking.fileno(), inheritable=False)


def _last_in_line(connections: list[HalfOpenConnection]) -> list[HalfOpenConnection]:
    """The connections in the order of closing: those of the address that has most of them first."""
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
"""Seconds between two checks for revoked keys."""
LOOK_EVERY = 5.0
"""The least seconds between two checks that the socket files of loopback addresses still exist."""
MOST_TOLD = 1000
"""Unknown keys that are remembered, so that each is logged once (and at most `validation.MOST_LINES` in a
minute)."""
EVERYBODY = "everybody"
"""The ZAP domain of a socket for all admitted clients; a socket for one client has its key as the domain."""
VERSION = b"1.0"
"""The version of the requests, RFC 27."""
CREDENTIALS = 6
"""The index of a client's key among the frames of a request."""


class Authenticator:
    """Makes and binds a service's sockets, and decides who is admitted. For one thread at a time. Raises
    `KeysError`."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.guarded = bool(access.keys)
        """Whether clients are identified by keys."""
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
        """The key of each session's client."""
        self._held: dict[zmq.Socket[bytes], tuple[socket.socket, list[str]]] = {}
        """For each socket that replaces a loopback port: the socket that holds the port, and its paths."""
        self._look_at = 0.0
        self._half_open: HalfOpenConnections | None = None
        if access.keys:
            self._pair = read_pair(Path(access.keys), SERVER)
            self._clients = AllowedClients(Path(access.keys))
            self._context = sockets.new_context()
            # not REP: it receives nothing any more once an answer could not be sent
            self._zap = sockets.make(zmq.ROUTER, within=self._context)
            self._zap.bind("inproc://zeromq.zap.01")

    # -- sockets -----------------------------------------------------------------------------------

    @property
    def questions(self) -> zmq.Socket[bytes] | None:
        """A socket to poll for reading: then call `turn`."""
        return self._zap

    @property
    def arrivals(self) -> int | None:
        """A descriptor to poll for reading: then call `turn`."""
        return None if self._half_open is None else self._half_open.fileno()

    def make(self, kind: int, largest: int = sockets.LARGEST_FRAME) -> zmq.Socket[bytes]:
        """A socket to bind here; it accepts frames of at most `largest` bytes."""
        return sockets.make(kind, largest=largest, within=self._context)

    def bind(self, made: zmq.Socket[bytes], address: Address, *, only: str = "") -> Address:
        """Bind, and return the address with the actual port.

        `only`: only for the client of that session. Raises `AddressError`.
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
        """As `sockets.bind_in`, with the checks of `bind`."""
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
        """Close the authenticator, after all sockets it made are closed."""
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

    # -- admission ---------------------------------------------------------------------------------

    def turn(self, now: float, known: Container[str]) -> list[str]:
        """Answer ZeroMQ's requests, and check for changes; returns the `known` sessions that must end."""
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
                log.warning("a key was revoked: %s is no longer admitted", key)
        with contextlib.suppress(zmq.Again):
            while asked:
                self._answer(self._zap, self._zap.recv_multipart(zmq.NOBLOCK), now)
        if not gone:
            return []
        self._keep_users(known)
        return [session for session, user in self._users.items() if user in gone]

    def _keep_twins(self, now: float) -> None:
        """Bind a twin again, at a further path, if its file is gone: a runtime folder is removed when its
        user's last login session ends. Existing connections remain."""
        if not self._held or now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY
        for made, (port, paths) in self._held.items():
            if not os.path.lexists(paths[-1]):
                with contextlib.suppress(AddressError, OSError):
                    host, number = port.getsockname()[:2]
                    paths.append(sockets.bind(made, addresses.place_of(Address(host=host, port=number))).path)

    def deadline(self) -> float | None:
        """When to call `turn` next."""
        if self._half_open is None:
            return None if self._clients is None else self._refresh_at
        due = self._half_open.deadline()
        return self._refresh_at if due is None else min(due, self._refresh_at)

    def admits(self, user: str) -> bool:
        """Whether messages of that user are accepted."""
        return self._clients is None or user in self._clients.names

    def check_session(self, session: str, user: str, known: Container[str]) -> None:
        """Raises `ProtocolError` if `session` belongs to another user; a session not among the `known` ones
        belongs to `user` from now on."""
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
        except (zmq.ZMQError, KeyError):  # no user id: the sender was not authenticated
            return "", frame.bytes

    def _keep_users(self, known: Container[str]) -> None:
        self._users = {session: user for session, user in self._users.items() if session in known}

    def _look_after(self, port: int, *, at_once: bool) -> None:
        """Limit the descriptors of half-open connections to `port`. Raises `AddressError` if there are no
        descriptors for that."""
        try:
            if self._half_open is None:
                self._half_open = HalfOpenConnections(curve=self._clients is not None)
            if at_once:
                self._half_open.watch(port)
            else:
                self._half_open.add(port)
        except OSError as error:
            raise AddressError(f"cannot watch port {port}: {error.strerror}") from None

    def _answer(self, zap: zmq.Socket[bytes], frames: list[bytes], now: float) -> None:
        """Answer a request to admit a client: its route, an empty frame, and the frames of RFC 27."""
        way, question = frames[:2], frames[2:]
        if len(question) < CREDENTIALS or way[1] or question[0] != VERSION:
            return  # the rest of a request whose reading failed: the next handshake repeats it
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
