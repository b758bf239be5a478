"""Asks a TCP port what it speaks: the first 64 bytes of ZMTP 3 name the mechanism, before any key is used.

Source: ZMTP 3.1, RFC 37, "Greeting".
"""

from __future__ import annotations

import errno
import socket
from typing import Final

from nearfar.net.addresses import Address

HELLO: Final = b"\xff" + bytes(8) + b"\x7f\x03\x01"
"""Signature and version: enough for the other side to say the rest."""
GREETING = 64
MECHANISM = slice(12, 32)
PATIENCE = 1.0
"""Seconds for an answer."""


class Probe:
    """Asks once, without blocking; close it. `found` is the mechanism: ``"CURVE"``, ``"NULL"``; "": no
    answer.
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
        """Go on, as far as it goes now."""
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
