"""A minimal client of a coordinator, on a real socket."""

from __future__ import annotations

import secrets
import time
from typing import Any

import zmq

from nearfar.coordinator import messages
from nearfar.coordinator.large_parts import CLIENT, Row
from nearfar.coordinator.messages import (
    VERSION,
    PoolChannel,
    PoolFrame,
    PoolMessage,
    PoolMessageType,
    open_channel,
)
from nearfar.coordinator.task import Mode
from nearfar.net import sockets
from nearfar.net.addresses import Address
from nearfar.net.auth import OWN, Access
from nearfar.net.handshake import Connection
from nearfar.net.process import about_me


class PoolClient:
    """Submits tasks, and stores received messages. Its caller drives it with `until`."""

    def __init__(self, address: str, name: str = "", access: Access = OWN) -> None:
        self.address = address
        self.name = name or f"client-{secrets.token_hex(4)}"
        self.pending: dict[int, Row] = {}
        self.outcomes: dict[int, tuple[int, bytes, list[bytes]]] = {}
        self.status: PoolMessage | None = None
        self.refused = ""
        self.workers = 0
        self.parted = False
        self.sessions = 0
        self._dialed: Connection | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._access = access
        self.begin()

    def begin(self) -> None:
        self.close()
        self.sessions += 1
        self.talk: PoolChannel | None = None
        place = Address.parse(self.address)
        self._dialed = Connection(zmq.DEALER, place, self._access, identity=f"{self.name}.{self.sessions}")
        self._socket = self._dialed.socket
        self.send(
            PoolFrame(0, 0, PoolMessage(PoolMessageType.HELLO, (VERSION, CLIENT, self.name, about_me())))
        )

    def send(self, envelope: PoolFrame) -> None:
        assert self._socket is not None
        self._socket.send_multipart(messages.pack(*envelope))

    def say(self, kind: PoolMessageType, *fields: Any, rows: list[Row] | None = None) -> None:
        assert self.until(lambda: self.talk is not None)
        assert self.talk is not None
        self.talk.send(PoolMessage(kind, fields, rows), time.monotonic())

    def submit(self, *blobs: bytes, buffers: tuple[bytes, ...] = ()) -> list[int]:
        first = len(self.pending) + len(self.outcomes) + 1
        rows: list[Row] = [
            (first + n, Mode.CALL, b"m:f", blob, list(buffers), None, 0) for n, blob in enumerate(blobs)
        ]
        assert self.until(lambda: self.talk is not None)  # what is pending by then is submitted again
        self.pending.update((row[0], row) for row in rows)
        self.say(PoolMessageType.SUBMIT, False, rows=rows)
        return [row[0] for row in rows]

    def until(self, holds: Any, within: float = 8.0) -> bool:
        """Read and send until `holds()`, for up to `within` seconds; returns whether it became true."""
        assert self._socket is not None
        deadline = time.monotonic() + within
        while not holds():
            now = time.monotonic()
            if now >= deadline:
                return False
            if self.talk is not None:
                self.talk.tick(now)
                for envelope in self.talk.flush(now):
                    self.send(envelope)
            if self._socket.poll(20):
                self.hear(messages.unpack(sockets.receive(self._socket, 2)))
        return True

    def hear(self, envelope: PoolFrame) -> None:
        message = envelope.message
        now = time.monotonic()
        if message.kind is PoolMessageType.WELCOME:
            self.talk = open_channel(message.fields[1]["lease"], now)
            if self.pending:
                self.talk.send(PoolMessage(PoolMessageType.SUBMIT, (True,), list(self.pending.values())), now)
        elif message.kind is PoolMessageType.STRANGER:
            self.begin()
        elif message.kind is PoolMessageType.REFUSED:
            self.refused = message.fields[0]
        elif message.kind is PoolMessageType.STATUS:
            self.status = message
        elif self.talk is not None:
            for each in self.talk.hear(envelope, now):
                self.handle(each)

    def handle(self, message: PoolMessage) -> None:
        if message.kind is PoolMessageType.OUTCOMES:
            for number, outcome, blob, buffers in message.rows or ():
                self.pending.pop(number, None)
                assert number not in self.outcomes
                self.outcomes[number] = (outcome, bytes(blob), [bytes(each) for each in buffers])
        elif message.kind is PoolMessageType.WORKERS:
            self.workers = message.fields[0]
        elif message.kind is PoolMessageType.PART:
            self.parted = True

    def done(self) -> bool:
        return not self.pending

    def close(self) -> None:
        if self._dialed is not None:
            self._dialed.close()
            self._dialed = None
