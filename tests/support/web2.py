"""HTTP/2 for the test server: the same routes, answered one after the other on each connection."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from tests.support.exchange import Request

if TYPE_CHECKING:
    from tests.support.web import Web


def serve_http2(web: Web, connection: socket.socket, number: int, first: bytes) -> None:
    """Answer the requests of one connection whose first bytes are `first`, until it ends."""
    Http2Connection(web, connection, number).serve(first)


class Http2Connection:
    def __init__(self, web: Web, connection: socket.socket, number: int) -> None:
        self._web = web
        self._number = number
        self._connection = connection
        self._asked: deque[h2.events.RequestReceived] = deque()
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))

    def serve(self, first: bytes) -> None:
        self.h2.initiate_connection()
        self._receive(first)
        while True:
            while self._asked:
                asked = self._asked.popleft()
                fields = {bytes(name).decode(): bytes(value).decode() for name, value in asked.headers}
                request = Request(fields[":path"], fields, self._number, "2")
                with suppress(h2.exceptions.StreamClosedError):  # by a client that wants no more of it
                    self._web.answer(request, Http2Reply(self, asked.stream_id))
            self.read()

    def read(self) -> None:
        """Wait for bytes of the client and process them; raises `ConnectionError` at their end."""
        data = self._connection.recv(65536)
        if not data:
            raise ConnectionAbortedError
        self._receive(data)

    def flush(self) -> None:
        self._connection.sendall(self.h2.data_to_send())

    def _receive(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self._asked.append(event)
        self.flush()


class Http2Reply:
    """An answer on one stream."""

    def __init__(self, connection: Http2Connection, stream: int) -> None:
        self._connection = connection
        self._h2 = connection.h2
        self._stream = stream

    def head(self, status: int, fields: Mapping[str, str]) -> None:
        pairs = [(":status", str(status)), *((name.lower(), value) for name, value in fields.items())]
        self._h2.send_headers(self._stream, pairs)
        self._connection.flush()

    def data(self, data: bytes) -> None:
        while data:
            window = self._h2.local_flow_control_window(self._stream)
            size = min(window, self._h2.max_outbound_frame_size, len(data))
            if not size:
                self._connection.read()
                continue
            self._h2.send_data(self._stream, data[:size])
            data = data[size:]
            self._connection.flush()

    def end(self) -> None:
        self._h2.end_stream(self._stream)
        self._connection.flush()

    def raw(self, data: bytes) -> None:
        raise NotImplementedError("raw bytes are for HTTP/1.1")

    def drop(self) -> None:
        raise ConnectionAbortedError

    def reset(self) -> None:
        self._h2.reset_stream(self._stream)
        self._connection.flush()

    def stall(self) -> None:
        while True:
            self._connection.read()
