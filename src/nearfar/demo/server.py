"""Serves a gallery over HTTP/1.1, with two ways to fail on purpose: `http.server` with ranges and validators
added.

=======================  ==============================================================================
path                     answer
=======================  ==============================================================================
``/``                    a page that lists all paths
``/urls.txt``            the same as a list of URLs, as a producer takes it
``/digests.txt``         the URL of each picture and its SHA-256, as ``nearfar verify`` takes it
``/images/0001.png``     a picture
``/busy/0001.png``       503 with Retry-After the first time, and the picture from then on
``/images/missing.png``  404, although it is listed: a dead link
=======================  ==============================================================================

Made for loopback and for trials: there is no TLS, and a client that is slow or idle is not disconnected.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import socket
import socketserver
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Self

from nearfar.demo.gallery import Gallery

POLL = 0.05
"""Seconds between two looks of the listener at whether it is to stop."""
PLAIN, HTML, PNG = "text/plain; charset=utf-8", "text/html; charset=utf-8", "image/png"
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class GalleryServer(socketserver.ThreadingTCPServer):
    """A gallery at an address, for the time of a ``with`` block."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, gallery: Gallery, host: str = "127.0.0.1", port: int = 0, *, retry_after: int = 1
    ) -> None:
        """Listen. Port 0 takes a free one, which `port` tells.

        `retry_after`: seconds that a busy path asks for. Raises `OSError` when the address cannot be bound.
        """
        self.gallery = gallery
        self.retry_after = retry_after
        self.asked: set[str] = set()
        """The busy paths that were asked for before."""
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__(address, GalleryHandler)  # type: ignore[arg-type]
        self.host, self.port = host, self.server_address[1]
        self._thread = threading.Thread(target=self.serve_forever, args=(POLL,), name="gallery", daemon=True)

    @property
    def url(self) -> str:
        """``http://127.0.0.1:8000``, without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def urls(self) -> list[str]:
        """The URL of every path that is listed."""
        return [self.url + path for path in self.paths()]

    def paths(self) -> list[str]:
        """Every path that is listed: the pictures, a busy one, a dead one."""
        names = self.gallery.names()
        return [*(f"/images/{name}" for name in names), f"/busy/{names[0]}", "/images/missing.png"]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, so that the end of the server can close it."""
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection and forget it."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may leave in the middle of an answer; every other error is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection, whatever it is doing, and end all threads."""
        self.shutdown()
        self._thread.join()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class GalleryHandler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, one after the other."""

    server: GalleryServer
    protocol_version = "HTTP/1.1"
    # With 0.9, which is the default, a line that is not HTTP would get an answer without a status.
    default_request_version = "HTTP/1.0"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        """Answer GET and HEAD."""
        if self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers:
            self.close_connection = True  # the body is not read
            self._text(HTTPStatus.BAD_REQUEST, "a request with a body")
            return
        path = self.path.partition("?")[0]
        folder, _, name = path.removeprefix("/").rpartition("/")
        if folder == "busy" and name not in self.server.asked and self.server.gallery.picture(name):
            self.server.asked.add(name)
            wait: dict[str, object] = {"Retry-After": self.server.retry_after}
            self._text(HTTPStatus.SERVICE_UNAVAILABLE, "busy the first time", wait)
        elif folder in ("images", "busy") and (content := self.server.gallery.picture(name)):
            self._file(content)
        elif path in ("/", "/index.html"):
            links = "".join(f'<li><a href="{each}">{each}</a>\n' for each in self.server.paths())
            head = '<!DOCTYPE html>\n<html lang="en"><title>Gallery</title>\n<h1>Gallery</h1>\n'
            self._answer(HTTPStatus.OK, f"{head}<ul>\n{links}</ul>\n".encode(), HTML)
        elif path == "/urls.txt":
            urls = "".join(f"{self._base()}{each}\n" for each in self.server.paths())
            self._answer(HTTPStatus.OK, urls.encode())
        elif path == "/digests.txt":
            self._answer(HTTPStatus.OK, self._digests().encode())
        else:
            self._text(HTTPStatus.NOT_FOUND, path)

    do_HEAD = do_GET  # noqa: N815

    def _refuse(self) -> None:
        self.close_connection = True  # a body of the request is not read
        self._text(HTTPStatus.METHOD_NOT_ALLOWED, self.command, {"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _base(self) -> str:
        return f"http://{self.headers.get('host', 'localhost')}"

    def _digests(self) -> str:
        """Of the pictures alone: a busy or a dead path has none that is certain."""
        gallery = self.server.gallery
        digests = (
            (name, hashlib.sha256(gallery.picture(name) or b"").hexdigest()) for name in gallery.names()
        )
        return "".join(f"{self._base()}/images/{name}\tsha256={digest}\n" for name, digest in digests)

    def _file(self, content: bytes) -> None:
        """All of `content`, the range that was asked for, or that the client has it already.

        A range under an ``If-Range`` that does not name this version gets all of it (RFC 9110, 13.1.5).
        """
        etag = etag_of(content)
        fields: dict[str, object] = {"ETag": etag, "Accept-Ranges": "bytes"}
        known = self.headers.get("if-none-match", "")
        if known == "*" or etag in (each.strip().removeprefix("W/") for each in known.split(",")):
            self._answer(HTTPStatus.NOT_MODIFIED, b"", PNG, fields)
            return
        found = byte_range(self.headers.get("range", ""), len(content))
        if self.command != "GET" or found is None or self.headers.get("if-range", etag) != etag:
            self._answer(HTTPStatus.OK, content, PNG, fields)
            return
        start, end = found
        if start >= end:
            fields["Content-Range"] = f"bytes */{len(content)}"
            self._answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", PNG, fields)
            return
        fields["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        self._answer(HTTPStatus.PARTIAL_CONTENT, content[start:end], PNG, fields)

    def _text(self, status: HTTPStatus, text: str, fields: dict[str, object] | None = None) -> None:
        self._answer(status, f"{status.value} {status.phrase}: {text}\n".encode(), PLAIN, fields)

    def _answer(
        self, status: HTTPStatus, body: bytes, kind: str = PLAIN, fields: dict[str, object] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **(fields or {})}.items():
            self.send_header(name, str(value))
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@functools.lru_cache(maxsize=1024)
def etag_of(content: bytes) -> str:
    """A validator that changes with the content."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def byte_range(field: str, length: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of the range that a ``Range`` field asks for.

    They are equal where it cannot be satisfied. None: there is no range, or a form of it that is not
    supported (several ranges, other units), so all of the content is sent.
    """
    asked = RANGE.fullmatch(field)
    if asked is None:
        return None
    first, last = asked[1], asked[2]
    if first:
        return int(first), max(int(first), min(int(last) + 1, length) if last else length)
    return (max(length - int(last), 0), length) if last else (length, length)
