"""A loopback HTTP server whose errors the test chooses.

::

    with Web() as web:
        web.routes["/cat.png"] = content(PNG, etag='"1"')
        web.routes["/busy"] = in_turn(status(503, {"Retry-After": "1"}), content(b"at last"))
        fetch(web.url("/cat.png"))
        assert web.requests("/cat.png")[0].fields["user-agent"] == "..."

A route is a function of a `Request` and a `Reply`; those of `tests.support.routes` compose. Each
connection has a thread, which ends, with its socket, when the server is closed: also one that stalls.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.support.exchange import Handler, Reply, Request
from tests.support.routes import status
from tests.support.web2 import serve_http2

GONE = (OSError, ValueError)
"""What a connection raises that was broken off, by the client or by `Web.close`."""


@dataclass
class Web:
    """The server; listens from construction on. `tls` is a server's context, for https (and h2 by ALPN)."""

    tls: ssl.SSLContext | None = None
    routes: dict[str, Handler] = field(default_factory=dict)
    """By path, without the query; ``"*"`` answers for the rest."""
    log: list[Request] = field(default_factory=list)
    host: str = "127.0.0.1"
    """The address to listen at."""
    at_close: list[Callable[[], None]] = field(default_factory=list)
    """Called first of all, to let go of answers that are held back."""

    def __post_init__(self) -> None:
        self._listener = socket.create_server((self.host, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._closing = False
        self.connections = 0
        self.most_at_once = 0
        """The most requests that were being answered at the same time."""
        self._at_once = 0
        self._accepting = threading.Thread(target=self._accept, name="web")
        self._accepting.start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{path}"

    def requests(self, path: str) -> list[Request]:
        """The requests for `path`, whatever their query, in the order they came."""
        with self._lock:
            return [request for request in self.log if request.path.partition("?")[0] == path]

    def answer(self, request: Request, reply: Reply) -> None:
        """Log a request and let its route answer it."""
        with self._lock:
            self.log.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            path = request.path.partition("?")[0]
            handler = self.routes.get(path) or self.routes.get("*") or status(404)
            handler(request, reply)
        finally:
            with self._lock:
                self._at_once -= 1

    def close(self) -> None:
        """Close every connection and wait for the threads."""
        for let_go in self.at_close:
            let_go()
        with self._lock:
            self._closing = True
            connections = dict(self._open)
        for connection in (self._listener, *connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in (self._accepting, *connections.values()):
            thread.join(10)
            assert not thread.is_alive(), "a connection's thread does not end"
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._closing:
                    connection.close()
                    return
                # Head and body are sent apart, which Nagle's algorithm would answer with a pause.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                number = self.connections
                thread = threading.Thread(target=self._serve, args=(connection, number), name=f"web-{number}")
                self._open[connection] = thread
                thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        secured = connection
        try:
            if self.tls is not None:
                secured = self.tls.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
                )
                with self._lock:
                    self._open[secured] = self._open.pop(connection)
                secured.do_handshake()
            first = secured.recv(65536)
            if first.startswith(b"PRI * HTTP/2"):
                serve_http2(self, secured, number, first)
            else:
                _serve_http1(self, secured, number, first)
        except GONE:
            pass
        finally:
            with self._lock:
                self._open.pop(secured, None)
            secured.close()


class Http1Reply:
    """An answer over HTTP/1.1."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def head(self, status: int, fields: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Said So", *(f"{name}: {value}" for name, value in fields.items())]
        self.raw("\r\n".join((*lines, "", "")).encode("utf-8"))

    def data(self, data: bytes) -> None:
        self.raw(data)

    def end(self) -> None:
        pass

    def raw(self, data: bytes) -> None:
        self._connection.sendall(data)

    def drop(self) -> None:
        raise ConnectionAbortedError

    def reset(self) -> None:
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionResetError

    def stall(self) -> None:
        while self._connection.recv(65536):
            pass
        raise ConnectionAbortedError


def _serve_http1(web: Web, connection: socket.socket, number: int, first: bytes) -> None:
    reply = Http1Reply(connection)
    for path, fields in _requests(connection, first):
        web.answer(Request(path, fields, number, "1.1"), reply)


def _requests(connection: socket.socket, waiting: bytes) -> Iterator[tuple[str, dict[str, str]]]:
    while True:
        while b"\r\n\r\n" not in waiting:
            more = connection.recv(65536)
            if not more:
                return
            waiting += more
        head, _, waiting = waiting.partition(b"\r\n\r\n")
        request, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        yield request.split(" ")[1], {name.lower(): value.strip() for name, _, value in pairs}
