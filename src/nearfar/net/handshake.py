"""The connecting side: a socket that connects, and the reason if it is not admitted.

ZeroMQ does not report every reason. A `Probe` therefore asks the TCP port for its mechanism: the first 64
bytes of ZMTP 3 name it, before any key is used (ZMTP 3.1, RFC 37, "Greeting").
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pwd
import socket
import stat
import struct
import time
from pathlib import Path
from typing import Final

import zmq

from nearfar.net import addresses, sockets
from nearfar.net.addresses import Address
from nearfar.net.auth import CLIENT, Access, read_pair, read_server_key

HELLO: Final = b"\xff" + bytes(8) + b"\x7f\x03\x01"
"""Signature and version: enough for the other side to send the rest."""
GREETING = 64
MECHANISM = slice(12, 32)
PATIENCE = 1.0
"""Seconds for an answer."""


class Probe:
    """Asks a port once for its mechanism, without blocking; must be closed. `found` is ``"CURVE"`` or
    ``"NULL"``; "": no answer.
    """

    def __init__(self, address: Address, now: float) -> None:
        self.found = ""
        self.over = False
        self._ends = now + PATIENCE
        self._got = b""
        self._said = False
        self._socket: socket.socket | None = None
        try:
            family, kind, _, _, where = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM
            )[0]
            self._socket = socket.socket(family, kind)
            self._socket.setblocking(False)
            self.over = self._socket.connect_ex(where) not in (0, errno.EINPROGRESS)
        except OSError:
            self.over = True

    def look(self, now: float) -> None:
        """Continue as far as possible without waiting."""
        if self.over or self._socket is None:
            return
        try:
            if not self._said:
                self._socket.send(HELLO)
                self._said = True
            while len(self._got) < GREETING and (more := self._socket.recv(GREETING)):
                self._got += more
            self.over = True
        except BlockingIOError:
            self.over = now >= self._ends
        except OSError:
            self.over = True
        if self.over and len(self._got) >= MECHANISM.stop and self._got[:1] == b"\xff":
            self.found = self._got[MECHANISM].rstrip(b"\0").decode("ascii", "replace")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


MISMATCH = zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
WATCHED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | FAILED
)
LOOK_EVERY = 0.1
"""Seconds between two checks of a working connection: each costs some microseconds, in every turn."""
PROBE_EVERY = 0.5
"""Seconds between two probes of a port."""

_numbers = itertools.count()


class Connection:
    """Connects a new socket to `address`. For one thread at a time.

    After a failure that `look` reports, ZeroMQ may not try again: make a new `Connection`. Raises
    `KeysError`, `AddressError`.
    """

    def __init__(
        self,
        kind: int,
        address: Address,
        access: Access,
        *,
        identity: str = "",
        largest: int = sockets.LARGEST_FRAME,
    ) -> None:
        self.succeeded = False
        """Whether the last handshake succeeded."""
        self._address = address
        self._access = access
        self._twin = _twin(address) if access.own and not address.path else None
        self._probe: Probe | None = None
        self._probe_next = time.monotonic() + PROBE_EVERY
        self._broke_off = False
        self.look_next = 0.0
        """The time before which no check is needed (`time.monotonic`)."""
        self._wary = access.own and bool(address.path) and _others_may_bind(address)
        pair = read_pair(Path(access.keys), CLIENT) if access.keys else None
        server = read_server_key(Path(access.keys)) if access.keys else b""
        self.socket = sockets.make(kind, identity=identity, largest=largest)
        try:
            if pair is not None:
                sockets.show(self.socket, pair, server)
            name = f"inproc://dialed-{os.getpid()}-{next(_numbers)}"
            self._monitor = self.socket.get_monitor_socket(WATCHED, name)
            self.socket.connect(str(self._twin or address))
        except BaseException:
            self.socket.close()
            raise

    def look(self, now: float) -> str:
        """Why it was refused since the last call; empty if it was admitted, or is still connecting."""
        if now < self.look_next:
            return ""
        why = ""
        with contextlib.suppress(zmq.Again):
            while sockets.readable(self._monitor):
                # zmq_socket_monitor(3); pyzmq's own reader would import asyncio.
                event, value = struct.unpack("=hi", self._monitor.recv_multipart(zmq.NOBLOCK)[0])
                why = self._weigh(event, value) or why
        self.look_next = now + LOOK_EVERY if self.succeeded and not self._wary else 0.0
        if self.succeeded:
            self._forget_probe()
        elif not why:
            why = self._ask_port(now)
        return why

    def close(self) -> None:
        self._forget_probe()
        self.socket.disable_monitor()
        self._monitor.close()
        self.socket.close()

    def _weigh(self, event: int, value: int) -> str:
        if event == zmq.EVENT_CONNECTED:
            self.succeeded = False
            return self._stranger(value) if self._address.path else ""
        self.succeeded = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        if self.succeeded:
            self._broke_off = False
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return f"it does not admit the key of {self._access.keys}: it was not added there, or was revoked"
        if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == MISMATCH:
            return self._explain_mechanism("NULL" if self._access.keys else "CURVE")
        if event in (FAILED, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
            self._broke_off = event != FAILED or value in (errno.EPIPE, errno.ECONNRESET)
        return ""

    def _ask_port(self, now: float) -> str:
        """Probe the port in case of doubt: a handshake that breaks off may mean a wrong key, or a relay
        without a service; a missing twin may mean another user's host, or none."""
        if self._address.path:
            return self._explain_mechanism("CURVE") if self._broke_off and self._access.keys else ""
        doubtful = self._twin is not None or (self._broke_off and bool(self._access.keys))
        if not (doubtful or self._address.local):
            return ""
        if self._probe is None:
            if now < self._probe_next:
                return ""
            self._follow_twin()
            self._probe = Probe(self._address, now)
        self._probe.look(now)
        if not self._probe.over:
            return ""
        found = self._probe.found
        self._forget_probe()
        self._probe_next = now + PROBE_EVERY
        if not found and self._held_by_others():
            return self._explain_mechanism("CURVE")
        return self._explain_mechanism(found) if doubtful else ""

    def _held_by_others(self) -> bool:
        """Whether the port is held by a service that is only for another user's processes."""
        if not self._address.local or not addresses.known(self._address):
            return False
        return self._twin is None or addresses.find(self._address) is None

    def _follow_twin(self) -> None:
        """Reconnect if a host has come meanwhile and uses another folder than expected."""
        if self._twin is not None and (twin := addresses.find(self._address)) not in (None, self._twin):
            self.socket.disconnect(str(self._twin))
            self._twin = twin
            self.socket.connect(str(twin))

    def _explain_mechanism(self, found: str) -> str:
        """Why a service with the mechanism `found` does not match this side's access."""
        if self._access.keys and found == "CURVE":
            own = "" if self._address.path else ", or runs without keys"
            return f"it has another key than {self._access.keys} says (server.key){own}"
        if self._access.keys and found:
            return f"it uses no keys, so it cannot be verified (this side uses those of {self._access.keys})"
        if found == "CURVE":
            if self._access.insecure:
                return (
                    "it is not open to everyone: give keys (keys=DIR, --keys DIR), or leave insecure"
                    " (--no-keys) out"
                )
            own = "" if self._address.path else ", or is another user's"
            return f"it asks for keys (keys=DIR, --keys DIR){own}"
        if found:
            return "it is open to everyone, so it cannot be verified: say insecure=True (--no-keys) to use it"
        return ""

    def _stranger(self, descriptor: int) -> str:
        """An error text if the listener at the path is neither this user nor root."""
        if not self._access.own:
            return ""
        try:
            with socket.socket(fileno=os.dup(descriptor)) as peer:
                found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:  # closed meanwhile
            return ""
        uid = struct.unpack("3i", found)[1]
        if uid in (0, os.geteuid()):
            return ""
        with contextlib.suppress(KeyError):
            return f"its socket file is user {pwd.getpwuid(uid).pw_name}'s"
        return f"its socket file is user {uid}'s"

    def _forget_probe(self) -> None:
        if self._probe is not None:
            self._probe.close()
            self._probe = None


def _twin(address: Address) -> Address:
    """The path that replaces a loopback address: that of the host, or the expected one."""
    return addresses.find(address) or addresses.place_of(address)


def _others_may_bind(address: Address) -> bool:
    """Whether another user could make a socket file at this path once it is free."""
    try:
        found = Path(address.path).parent.stat()
    except OSError:
        return True
    return found.st_uid not in (0, os.geteuid()) or bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


BELIEVED = 1.5
"""Seconds of failures without a success, after which they are reported: a restarting host causes some."""


class HandshakeFailures:
    """Collects failed handshakes, and reports the reason once they last for `BELIEVED` seconds."""

    def __init__(self) -> None:
        self._why = ""
        self._since = 0.0

    def failed(self, why: str, now: float) -> None:
        """Record a failed handshake."""
        if not self._why:
            self._since = now
        self._why = why

    def succeeded(self) -> None:
        """Record a successful handshake."""
        self._why = ""

    def believed(self, now: float) -> str:
        """The reason, once they have failed for long enough; else empty."""
        return self._why if self._why and now >= self._since + BELIEVED else ""
