"""The socket of whoever calls a coordinator: an agent, or a client."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

import zmq

from nearfar.coordinator import wire
from nearfar.coordinator.wire import Envelope
from nearfar.errors import ProtocolError
from nearfar.net import sockets
from nearfar.net.addresses import Address
from nearfar.net.complaints import Complaints

log = logging.getLogger(__name__)

DRAIN = 256
"""Messages read in one turn."""
SMALL = 2
"""Frames of a message without large parts."""


class Caller:
    """One session's socket after another. For one thread at a time; nothing here blocks."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._socket: zmq.Socket[bytes] | None = None
        self._complaints = Complaints(log)

    def open(self, session: str) -> int:
        """Close the socket, and open one under this session's name; returns a descriptor to poll on.

        ZeroMQ makes that readable once for many messages: ask `pending` before each wait.
        """
        self.close()
        self._socket = sockets.make(zmq.DEALER, identity=session)
        self._socket.connect(str(self.address))
        return int(self._socket.getsockopt(zmq.FD))

    def pending(self) -> bool:
        """True if messages lie here to be read."""
        return self._socket is not None and bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def send(self, envelope: Envelope) -> None:
        """Send, if there is a socket; whether it arrives is the line's business."""
        if self._socket is not None:
            frames = wire.pack(*envelope)
            with contextlib.suppress(zmq.Again):
                self._socket.send_multipart(frames, zmq.NOBLOCK, copy=len(frames) <= SMALL)

    def receive(self) -> Iterator[Envelope]:
        """What has come, up to `DRAIN` messages."""
        with contextlib.suppress(zmq.Again):
            for _ in range(DRAIN if self._socket is not None else 0):
                assert self._socket is not None
                frames = sockets.receive(self._socket, SMALL)
                try:
                    yield wire.unpack(frames)
                except ProtocolError as error:
                    text = f"dropped a malformed message from {self.address}: %s"
                    self._complaints.note(text, error, time.monotonic())

    def close(self) -> None:
        """Close the socket, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
