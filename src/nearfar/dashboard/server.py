"""Serves a board over HTTP: a page, its events, JSON, metrics, and health. Read only.

A connection carries one request, and has a thread of its own; both are bounded. Who reads slowly, or sends
slowly, occupies such a thread for seconds and is disconnected; the program that publishes is not involved.

A browser on this machine may show pages of other sites, and these may send requests here. So requests with a
foreign `Host` (a name that was made to point here) or `Origin` are refused, and no answer may be read, framed
or loaded by another site.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
import socket
import stat
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from socketserver import TCPServer
from typing import Any

from nearfar.dashboard.board import Board, Snapshot
from nearfar.errors import AddressError, KeysError
from nearfar.net import process
from nearfar.net.addresses import Address
from nearfar.net.failures import PAUSE
from nearfar.net.interrupts import ours

DEFAULT = "127.0.0.1:8787"
MOST_CONNECTIONS = 48
MOST_STREAMS = 32
"""Of these connections, those that get events: so other requests always find room."""
LONGEST_HEAD = 16 << 10
"""Bytes of a request."""
HEAD_WITHIN = 5.0
"""Seconds within which a request must have come."""
SENT_WITHIN = 5.0
"""Seconds within which an answer, or an event, must be taken."""
SEND_BUFFER = 256 << 10
"""Bytes that the system keeps for a client that does not read."""
STALE = 10.0
"""Seconds after which a program without a new snapshot counts as stuck."""
SHORTEST_TOKEN = 16

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "/dashboard.css": ("dashboard.css", "text/css; charset=utf-8"),
    "/uplot.js": ("uplot.js", "text/javascript; charset=utf-8"),
    "/uplot.css": ("uplot.css", "text/css; charset=utf-8"),
    "/uplot.LICENSE": ("uplot.LICENSE", "text/plain; charset=utf-8"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d+)?", re.ASCII)
NO_METRICS = "metrics need prometheus-client: pip install 'nearfar[metrics]'"

log = logging.getLogger(__name__)


def parse(text: str) -> Address:
    """``HOST:PORT``, ``:PORT`` or ``PORT``; the port ``*`` is any free one. Raises `AddressError`."""
    host, _, port = text.rpartition(":")
    try:
        return Address.parse(f"tcp://{host or DEFAULT.partition(':')[0]}:{port}")
    except AddressError:
        said = f"cannot read the dashboard's address {text!r}: expected HOST:PORT, such as {DEFAULT}"
        raise AddressError(said) from None


def read_token(path: str | os.PathLike[str]) -> str:
    """The first line of a file that only its owner can read. Raises `KeysError`."""
    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.readline(4096).strip().decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"cannot read the dashboard's token in {path}: {error}") from None
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeysError(f"others can read the dashboard's token: make it private (chmod 600 {path})")
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise KeysError(
            f"{path} must hold a token of at least {SHORTEST_TOKEN} printable characters, such as"
            f" {secrets.token_urlsafe(24)}"
        )
    return token


class Dashboard:
    """Serves `board` at an address, from its creation until `close`."""

    def __init__(
        self, board: Board, where: str | bool = True, token_file: str | os.PathLike[str] | None = None
    ) -> None:
        """`where`: as for `parse`; True: `DEFAULT`, or another port if that is in use. `token_file`: a file
        with the token that every request must show; without one, only this machine can connect.

        Raises `AddressError` and `KeysError`.
        """
        token = None if token_file is None else read_token(token_file)
        address = parse(DEFAULT if where is True else str(where))
        if not address.local and token is None:
            raise AddressError(
                f"a dashboard at {address.host}:{address.port or '*'} can be reached from other"
                " machines: give a file with a token (--dashboard-token FILE)"
            )
        try:
            self._server = Listener(board, address, token)
        except AddressError:
            if where is not True:
                raise
            self._server = Listener(board, Address(address.host), token)
        self._board = board
        host = f"[{address.host}]" if ":" in address.host else address.host
        self.url = f"http://{host}:{self._server.server_address[1]}/"
        """Where a browser finds it."""
        self._thread = threading.Thread(
            target=ours(self._server.serve_forever), name="nearfar-dashboard", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Disconnect everyone, and end the threads. A second call does nothing."""
        self._board.close()
        self._server.end()
        self._thread.join()
        self._server.join()


class Listener(TCPServer):
    """Accepts connections, up to `MOST_CONNECTIONS`; further ones are closed at once."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, board: Board, address: Address, token: str | None) -> None:
        """Raises `AddressError` if the address cannot be bound."""
        self.board = board
        self.token = token
        self.names = {
            "localhost",
            address.host.lower(),
            socket.gethostname().lower(),
            socket.getfqdn().lower(),
        }
        """The names of this server; IP addresses are its names as well."""
        self.streams = threading.BoundedSemaphore(MOST_STREAMS)
        self._open: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._ending = False
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            family, *_, place = min(found, key=lambda each: each[0] != socket.AF_INET)
            self.address_family = family
            super().__init__(place[:2], Handler)  # type: ignore[arg-type]
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise AddressError(f"the dashboard cannot use {address.host}:{address.port}: {reason}") from None
        process.watch(self)

    def forget_parent(self) -> None:
        """In a forked child: the parent's connections must end when the parent closes them."""
        for each in (self.socket, *self._open):
            with contextlib.suppress(OSError):
                os.close(each.detach())

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a new thread, if there is room."""
        thread = threading.Thread(
            target=ours(lambda: self._answer(request, client_address)),
            name="nearfar-dashboard-answer",
            daemon=True,
        )
        with self._lock:
            if len(self._open) < MOST_CONNECTIONS:
                self._open[request] = thread
                try:
                    thread.start()
                    return
                except RuntimeError:  # the system has no more threads
                    del self._open[request]
        self.shutdown_request(request)

    def get_request(self) -> Any:
        """As the base class; after a failure, such as a lack of descriptors, not at once again."""
        try:
            return super().get_request()
        except OSError:
            if not self._ending:
                time.sleep(PAUSE)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log it; the base class prints a traceback."""
        log.debug("a connection failed", exc_info=True)

    def _answer(self, request: socket.socket, client_address: Any) -> None:
        try:
            Handler(request, client_address, self)
        except OSError:
            pass  # the client has left, or was too slow
        except Exception:
            self.handle_error(request, client_address)
        with self._lock:
            self._open.pop(request, None)
        self.shutdown_request(request)

    def end(self) -> None:
        """Stop listening, and break every connection off."""
        self._ending = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self.shutdown()
        self.server_close()
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        """Wait for the threads."""
        with self._lock:
            threads = list(self._open.values())
        for thread in threads:
            if thread is not threading.current_thread():  # which a garbage collection may have chosen
                thread.join()


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Listener
    server_version = sys_version = ""
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"

    def setup(self) -> None:
        """Read the whole head of the request, within a time. Raises `OSError`."""
        super().setup()
        self.rfile.close()
        self.rfile = BytesIO(_read_head(self.connection))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.connection.settimeout(SENT_WITHIN)

    def do_GET(self) -> None:
        """Check who asks, and answer."""
        path = self.path.partition("?")[0]
        if (refusal := self._refusal(path)) is not None:
            self.send_error(*refusal)
        elif path in PAGE:
            name, kind = PAGE[path]
            self._send(files("nearfar.dashboard").joinpath("page", name).read_bytes(), kind)
        elif path in ("/health", "/ready"):
            self._send_health(path == "/ready")
        elif path in ("/api/status", "/metrics", "/events"):
            snapshot = self.server.board.latest()
            if snapshot is None:
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "the program is starting")
            elif path == "/api/status":
                self._send(snapshot.json + b"\n", "application/json")
            elif path == "/metrics":
                self._send_metrics(snapshot)
            else:
                self._send_events(snapshot)
        else:
            self.send_error(HTTPStatus.NOT_FOUND, f"there are: {', '.join([*PATHS])}")

    def do_HEAD(self) -> None:
        """As GET, without a body."""
        self.do_GET()

    def _refusal(self, path: str) -> tuple[HTTPStatus, str] | None:
        """Why this request is not answered."""
        host = self.headers.get("Host", "")
        if not self._is_ours(host):
            return HTTPStatus.FORBIDDEN, "the Host of this request is not a name of this server"
        origin = self.headers.get("Origin")
        if origin is not None and origin.lower() != f"http://{host}".lower():
            return HTTPStatus.FORBIDDEN, "this request comes from a page of another site"
        if self.server.token is not None and path not in ("/health", "/ready") and not self._knows_token():
            return (
                HTTPStatus.UNAUTHORIZED,
                "give the token as the password (of any user), or as a Bearer token",
            )
        return None

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        try:
            ipaddress.ip_address(match[1].strip("[]"))
        except ValueError:
            return match[1].rstrip(".").lower() in self.server.names
        return True  # a browser that was led here by a name sends that name

    def _knows_token(self) -> bool:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = b64decode(given, validate=True).decode("ascii").partition(":")[2]
            except ValueError:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), str(self.server.token).encode())

    def _send_health(self, ready: bool) -> None:
        snapshot = self.server.board.latest()
        age = None if snapshot is None else time.monotonic() - snapshot.made
        if snapshot is None or age is None:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "the program is starting")
        elif age > STALE:
            self.send_error(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the program's loop has been stuck for {age:.0f} s"
            )
        elif ready and not snapshot.status.get("ready", True):
            waits_for = snapshot.status.get("waits_for") or "its peers"
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, f"it waits for {waits_for}")
        else:
            self._send(b"ready\n" if ready else b"ok\n", "text/plain; charset=utf-8")

    def _send_metrics(self, snapshot: Snapshot) -> None:
        try:
            from nearfar.dashboard.metrics import expose
        except ImportError:
            self.send_error(HTTPStatus.NOT_IMPLEMENTED, NO_METRICS)
            return
        self._send(*expose(snapshot.status, self.headers.get("Accept", "")))

    def _send_events(self, snapshot: Snapshot) -> None:
        """Send the history, and from then on each snapshot."""
        if not self.server.streams.acquire(blocking=False):
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "too many pages are open: close some")
            return
        try:
            self._send_head(HTTPStatus.OK, "text/event-stream")
            if self.command == "HEAD":
                return
            self.wfile.write(_event("history", snapshot.history()))
            for each in self._snapshots(snapshot):
                self.wfile.write(_event("status", each.json))
        finally:
            self.server.streams.release()

    def _snapshots(self, snapshot: Snapshot) -> Iterator[Snapshot]:
        yield snapshot
        board, number = self.server.board, snapshot.number
        while not board.closed:
            found = board.wait(number, SENT_WITHIN)
            if found is not None:
                number = found.number
                yield found
            else:
                self.wfile.write(
                    b": the program has published nothing new\n\n"
                )  # shows whether a client is left

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send_head(status, kind, length=len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_head(self, status: HTTPStatus, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="nearfar dashboard", charset="UTF-8"')
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with a line of text."""
        status = HTTPStatus(code)
        if status == HTTPStatus.NOT_IMPLEMENTED and self.command not in (None, "GET", "HEAD"):
            status, message = HTTPStatus.METHOD_NOT_ALLOWED, "this server is read only: use GET"
        self._send(
            f"{message or status.phrase}\n".encode(errors="replace"), "text/plain; charset=utf-8", status
        )

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the program's log is about its own work."""


PATHS = ("/", "/events", "/api/status", "/metrics", "/health", "/ready")


def _read_head(connection: socket.socket) -> bytes:
    """The bytes of a request up to the end of its header fields; a body is not read. Raises `OSError`."""
    deadline, head = time.monotonic() + HEAD_WITHIN, b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        more = connection.recv(4096)
        if not more or len(head) > LONGEST_HEAD:
            raise ConnectionError("no complete request came")
        head += more
    return head


def _event(name: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)
