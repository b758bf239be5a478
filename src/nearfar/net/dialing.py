"""A socket that connects, and says why it is not let in: ZeroMQ itself says nothing but to a monitor."""

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

import zmq

from nearfar.net import sockets, twins
from nearfar.net.access import Access
from nearfar.net.addresses import Address
from nearfar.net.keys import CLIENT, read_pair, read_server_key
from nearfar.net.probe import Probe

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
"""Seconds between two looks at what is well: each costs some microseconds, in every turn of a loop."""
PROBE_EVERY = 0.5
"""Seconds between two probes of a port."""

_numbers = itertools.count()


class Dialed:
    """Connects a new socket to `address`. For one thread at a time.

    After a failure that `look` tells, ZeroMQ may not try again: dial anew. Raises `KeysError`,
    `AddressError`.
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
        """Whether the last handshake came to its end."""
        self._address = address
        self._access = access
        self._twin = _twin(address) if access.own and not address.path else None
        self._probe: Probe | None = None
        self._probe_next = time.monotonic() + PROBE_EVERY
        self._broke_off = False
        self.look_next = 0.0
        """Until when there is nothing to look at (`time.monotonic`)."""
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
        """Why it was not let in since the last look; nothing if it was, or is still on its way."""
        if now < self.look_next:
            return ""
        why = ""
        with contextlib.suppress(zmq.Again):
            while sockets.readable(self._monitor):
                # zmq_socket_monitor(3); pyzmq's own reader would load all of asyncio first.
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
            return (
                f"it does not let in the key of {self._access.keys}: it was not added there, or was revoked"
            )
        if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == MISMATCH:
            return self._explain_mechanism("NULL" if self._access.keys else "CURVE")
        if event in (FAILED, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
            self._broke_off = event != FAILED or value in (errno.EPIPE, errno.ECONNRESET)
        return ""

    def _ask_port(self, now: float) -> str:
        """A handshake that breaks off may be a wrong key, or nobody behind a relay; a twin that is not there,
        another's host, or none: ask the port itself what it speaks."""
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
        """Whether the port is only held, by a service for its own user's processes, and not for this one."""
        if not self._address.local or not twins.known(self._address):
            return False
        return self._twin is None or twins.find(self._address) is None

    def _follow_twin(self) -> None:
        """A host that has come since may have another folder than was expected."""
        if self._twin is not None and (twin := twins.find(self._address)) not in (None, self._twin):
            self.socket.disconnect(str(self._twin))
            self._twin = twin
            self.socket.connect(str(twin))

    def _explain_mechanism(self, found: str) -> str:
        """Why what speaks `found` is not what was looked for."""
        if self._access.keys and found == "CURVE":
            own = "" if self._address.path else ", or runs without keys"
            return f"it has another key than {self._access.keys} says (server.key){own}"
        if self._access.keys and found:
            return f"it asks for no keys, and may be anybody: it does not use those of {self._access.keys}"
        if found == "CURVE":
            if self._access.insecure:
                return "it is not open to everybody: give keys (keys=DIR, --keys DIR), or leave insecure out"
            own = "" if self._address.path else ", or is another user's"
            return f"it asks for keys (keys=DIR, --keys DIR){own}"
        if found:
            return "it is open to everybody, and may be anybody's: say insecure=True (--insecure) to use it"
        return ""

    def _stranger(self, descriptor: int) -> str:
        """Who listens at the path, if that is neither this user nor root."""
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
    """The path in the place of a loopback address: where a host is, or where one is expected."""
    return twins.find(address) or twins.place_of(address)


def _others_may_bind(address: Address) -> bool:
    """Whether another user could put a socket file in this place, once it is free."""
    try:
        found = Path(address.path).parent.stat()
    except OSError:
        return True
    return found.st_uid not in (0, os.geteuid()) or bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
