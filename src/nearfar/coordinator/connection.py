"""The socket with which an agent or a client connects to a coordinator."""

from __future__ import annotations

import logging
import time

import zmq

from nearfar.coordinator import messages
from nearfar.coordinator.messages import PoolFrame
from nearfar.errors import AddressError, KeysError, ProtocolError
from nearfar.net import sockets
from nearfar.net.addresses import Address
from nearfar.net.auth import Access
from nearfar.net.failures import LoopFailures
from nearfar.net.handshake import Connection
from nearfar.net.validation import ProtocolErrors

log = logging.getLogger(__name__)

DRAIN = 256
"""Messages read in one turn."""
SMALL = 1
"""Frames of a message without large parts."""


class CoordinatorConnection:
    """The socket of the present session, replaced at the next. For one thread at a time; never blocks."""

    def __init__(self, address: Address, access: Access) -> None:
        self.address = address
        self._access = access
        self._dialed: Connection | None = None
        self._trouble = ""
        """Why there is no socket, if there is none."""
        self._at_once = 1
        """Messages that `receive` reads at most."""
        self._complaints = ProtocolErrors(log)
        self._mishaps = LoopFailures(log, f"the caller of {address}")

    def open(self, session: str) -> int:
        """Close the socket, and open one with this session's name; returns a descriptor to poll, or -1 if
        there are no keys or no socket can be opened now.

        ZeroMQ makes it readable once for many messages: check `pending` before each wait.
        """
        self._trouble = ""
        try:
            self.close()
            self._dialed = Connection(zmq.DEALER, self.address, self._access, identity=session)
            return int(self._dialed.socket.getsockopt(zmq.FD))
        except (KeysError, AddressError) as error:
            self._trouble = str(error)
        except sockets.FAILURES as error:  # the caller opens it again, until it gives up
            self._mishaps.note(error, "it cannot connect now")
        return -1

    def pending(self) -> bool:
        """True if there are messages to read."""
        dialed = self._dialed
        unread = dialed is not None and sockets.readable(dialed.socket)
        self._at_once = min(4 * self._at_once, DRAIN) if unread else 1
        return unread

    def send(self, envelope: PoolFrame) -> None:
        """Send, if there is a socket. A lost message is sent again by the channel."""
        if self._dialed is not None:
            frames = messages.pack(*envelope)
            try:
                sockets.send(self._dialed.socket, frames, SMALL)
            except zmq.Again:
                return
            except sockets.FAILURES as error:
                self._mishaps.note(error)

    def receive(self, *, read: bool = True) -> tuple[list[PoolFrame], str]:
        """The received messages, and why the socket was rejected, if it was: then there are no messages.
        `read`: False if the caller is certain that there are none.

        It reads one message after a wait, because a failed read costs as much as the `pending` that follows.
        While `pending` finds further ones each time, it reads more, at most `DRAIN`.
        """
        dialed = self._dialed
        if dialed is None:
            return [], self._trouble
        heard: list[PoolFrame] = []
        try:
            for _ in range(self._at_once if read else 0):
                frames = sockets.receive(dialed.socket, SMALL)
                try:
                    heard.append(messages.unpack(frames))
                except ProtocolError as error:
                    text = f"dropped a malformed message from {self.address}: %s"
                    self._complaints.note(text, error, time.monotonic())
        except zmq.Again:
            pass
        # After reading: another process in the coordinator's place connects before it sends anything.
        now = time.monotonic()
        why = dialed.look(now) if now >= dialed.look_next else ""
        return ([], why) if why else (heard, "")

    def close(self) -> None:
        """Close the socket, if there is one."""
        if self._dialed is not None:
            self._dialed.close()
            self._dialed = None
