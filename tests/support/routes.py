"""Correct and faulty answers for the test server, which can be combined."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import replace

from tests.support.exchange import Handler, Reply, Request


def content(body: bytes, code: int = 200, /, **fields: str) -> Handler:
    """A file, as a good server gives it: ``content(b"...", etag='"1"', content_type="image/png")``.

    Ranges are answered with 206 if If-Range names the file's ETag or date (or is not there).
    """
    named = _fields(fields)

    def handle(request: Request, reply: Reply) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", request.fields.get("range", ""))
        same = request.fields.get("if-range") in (None, named.get("Etag"), named.get("Last-Modified"))
        if asked and same and int(asked[1]) < len(body):
            part = body[int(asked[1]) :]
            where = f"bytes {asked[1]}-{len(body) - 1}/{len(body)}"
            reply.head(206, {"Content-Length": str(len(part)), "Content-Range": where, **named})
            reply.data(part)
        else:
            reply.head(code, {"Content-Length": str(len(body)), **named})
            reply.data(body)
        reply.end()

    return handle


def without_ranges(handler: Handler) -> Handler:
    """`handler` as on a server without ranges (or that answers with a part of its own choice)."""

    def handle(request: Request, reply: Reply) -> None:
        left = {name: value for name, value in request.fields.items() if name != "range"}
        handler(replace(request, fields=left), reply)

    return handle


def status(code: int, fields: Mapping[str, str] | None = None, body: bytes = b"no\n") -> Handler:
    """An answer that carries no file."""
    body = b"" if code in (204, 205, 304) else body
    length = {"Content-Length": str(len(body))} if code not in (204, 304) else {}

    def handle(request: Request, reply: Reply) -> None:
        reply.head(code, {**length, **(fields or {})})
        reply.data(body)
        reply.end()

    return handle


def redirect(target: str, code: int = 302) -> Handler:
    return status(code, {"Location": target})


def cut(body: bytes, at: int, /, *, by: str = "drop", **fields: str) -> Handler:
    """The first `at` bytes of a file, then the connection ends: `by` ``drop``, ``reset`` or ``stall``."""

    def handle(request: Request, reply: Reply) -> None:
        reply.head(200, {"Content-Length": str(len(body)), **_fields(fields)})
        reply.data(body[:at])
        getattr(reply, by)()

    return handle


def raw(data: bytes, then: str = "drop") -> Handler:
    """Exactly these bytes, including the head."""

    def handle(request: Request, reply: Reply) -> None:
        reply.raw(data)
        getattr(reply, then)()

    return handle


def endless(chunk: bytes = bytes(65536), **fields: str) -> Handler:
    """A body that never ends, as fast as it is read."""

    def handle(request: Request, reply: Reply) -> None:
        reply.head(200, _fields(fields))
        while True:
            reply.data(chunk)

    return handle


def drip(size: int, seconds: float) -> Handler:
    """A body that never ends, `size` bytes each time `seconds` have passed."""
    pause = threading.Event()

    def handle(request: Request, reply: Reply) -> None:
        reply.head(200, {})
        while not pause.wait(seconds):
            reply.data(bytes(size))

    return handle


def in_turn(*handlers: Handler) -> Handler:
    """The first request gets the first handler, and so on; the last one stays."""
    left = list(handlers)
    lock = threading.Lock()

    def handle(request: Request, reply: Reply) -> None:
        with lock:
            handler = left.pop(0) if len(left) > 1 else left[0]
        handler(request, reply)

    return handle


def paced(handler: Handler, most: int, seconds: float, code: int = 429) -> Handler:
    """`handler` for the first `most` requests in each span of so many `seconds`; the others are put off."""
    let_through: list[float] = []
    lock = threading.Lock()
    later = status(code, {"Retry-After": "1"})

    def handle(request: Request, reply: Reply) -> None:
        with lock:
            early = len([at for at in let_through if request.at - at < seconds]) >= most
            if not early:
                let_through.append(request.at)
        (later if early else handler)(request, reply)

    return handle


def gated(gate: threading.Event, handler: Handler) -> Handler:
    """`handler`, once `gate` is open (after 10 seconds at the latest)."""

    def handle(request: Request, reply: Reply) -> None:
        gate.wait(10)
        handler(request, reply)

    return handle


def _fields(fields: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-").title(): value for name, value in fields.items()}
