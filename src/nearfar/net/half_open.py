"""Connections whose handshake has not ended: how many a service has at a time, and which it closes.

ZeroMQ accepts whoever connects, in a thread of its own, and knows no limit but the descriptors that the
process may have; a connection that says nothing keeps one for `sockets.HANDSHAKE` milliseconds. So somebody
without a key could use up all of them, and nothing that needs one would work any more. Here the service's
loop looks how many there are, and shuts down what is too much: first of the address that has most of them,
and there of those that have said least. ZeroMQ then closes them, as if the other side had.

How far a connection is, the kernel tells (tcp(7), TCP_INFO): by CURVE, only one who was let in is ever sent
more than a greeting, a WELCOME and an ERROR; without, only who has said more than a greeting is taken for a
peer.
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
from collections.abc import Iterator
from typing import NamedTuple

from nearfar.net import descriptors
from nearfar.net.complaints import Complaints

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


class Connection(NamedTuple):
    """One that has not ended its handshake."""

    descriptor: int
    inode: int
    whence: str
    said: int
    """Bytes."""


class HalfOpen:
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
        self._complaints = Complaints(log, "closed connections that do not say who they are %d more times")

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
        limit = descriptors.limit()
        lowest = descriptors.lowest_free(self._looking.fileno())
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

    def _half_open(self, lowest: int) -> list[Connection]:
        found = []
        for descriptor, inode in self._sockets(range(lowest)):
            with contextlib.suppress(OSError, struct.error):
                if self._looking.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    continue
                info = self._looking.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
                sent, said = _INFO.unpack(info)
                if sent < SENT_TO_PEERS if self._curve else said < SAID_BY_PEERS:
                    found.append(Connection(descriptor, inode, self._whence(), said))
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

    def _close(self, surplus: list[Connection], now: float) -> None:
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


def _last_in_line(connections: list[Connection]) -> list[Connection]:
    """Those to be closed first come first: of the address that has most, one after the other."""
    by_address: dict[str, list[Connection]] = {}
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
