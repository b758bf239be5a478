"""The bound side: makes a service's sockets, and answers for who gets in.

With keys, ZeroMQ asks before it ends a handshake (ZAP, RFC 27). The question is answered here, in the loop of
the service itself; therefore the service has a ZeroMQ context of its own. Whoever was let in is known in each
of its messages: a key that is revoked is heard no more, though its connections stay.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Container
from functools import partial
from pathlib import Path

import zmq
from zmq.utils import z85

from nearfar.errors import AddressError, ProtocolError
from nearfar.net import files, sockets, twins
from nearfar.net.access import Access, check_guarded
from nearfar.net.addresses import Address
from nearfar.net.complaints import PERIOD, Complaints
from nearfar.net.half_open import HalfOpen
from nearfar.net.keys import SERVER, Clients, read_pair

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

log = logging.getLogger(__name__)


class Door:
    """For one thread at a time. Raises `KeysError`."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.keyed = bool(access.keys)
        """Whether it knows in each message who sent it, by the key."""
        self.turned_away = 0
        """Handshakes that were refused."""
        self._told: set[str] = set()
        self._complaints = Complaints(
            log, f"turned away %d more connections with unknown keys in the last {PERIOD:.0f} s"
        )
        self._clients: Clients | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._zap: zmq.Socket[bytes] | None = None
        self._refresh_at = 0.0
        self._swept = False
        self._users: dict[str, str] = {}
        """Who speaks in a session."""
        self._held: dict[zmq.Socket[bytes], tuple[socket.socket, list[str]]] = {}
        """Of each socket that stands in for a loopback port: what holds that, and its paths."""
        self._look_at = 0.0
        self._half_open: HalfOpen | None = None
        if access.keys:
            self._pair = read_pair(Path(access.keys), SERVER)
            self._clients = Clients(Path(access.keys))
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
                files.remove(path)
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
            twins.sweep()
        sockets.guard_own(made)
        port = sockets.hold(address)
        try:
            bound = address.beside(port.getsockname()[1])
            twins.clear(bound)
            twin = sockets.bind(made, twins.place_of(bound))
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
                    paths.append(sockets.bind(made, twins.place_of(Address(host=host, port=number))).path)

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
                self._half_open = HalfOpen(curve=self._clients is not None)
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
