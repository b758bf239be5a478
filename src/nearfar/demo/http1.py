"""As much of HTTP/1.1 as a server of files needs: heads, ranges, validators. Bytes in, bytes out; no I/O.

Requests with a body are refused; there is no chunked coding, no TLS, no list of several ranges.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

HEAD_LIMIT = 16 * 1024
"""Bytes of a request's head."""

REQUEST_LINE = re.compile(rb"([A-Z]+) (/[\x21-\x7e]*) HTTP/1\.([01])")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class BadRequest(Exception):
    """A request that cannot be read; the connection is of no more use."""


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request."""

    method: str
    path: str
    """Without the query."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Lower-case names; a repeated field's values joined by a comma."""
    keep: bool = True
    """The connection stays open for another request."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; `encode` adds the length, and the connection's fate."""

    status: HTTPStatus
    body: bytes = b""
    fields: Mapping[str, str] = field(default_factory=dict)

    def encode(self, request: Request) -> tuple[bytes, bytes]:
        """The head and the body to send."""
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}"]
        lines += (f"{name}: {value}" for name, value in self.fields.items())
        if self.status != HTTPStatus.NOT_MODIFIED:
            lines.append(f"Content-Length: {len(self.body)}")
        lines.append(f"Connection: {'keep-alive' if request.keep else 'close'}\r\n\r\n")
        return "\r\n".join(lines).encode("latin-1"), b"" if request.method == "HEAD" else self.body


def text(status: HTTPStatus, said: str = "", **fields: str) -> Response:
    """A short answer for a person; the fields' underscores become hyphens."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    body = f"{status.value} {status.phrase}{said and ': '}{said}\n".encode()
    return Response(status, body, {"Content-Type": "text/plain; charset=utf-8"} | named)


def read_head(buffer: bytearray) -> Request | None:
    """Take one request's head off the front of `buffer`; None until it is whole.

    Raises `BadRequest`.
    """
    end = buffer.find(b"\r\n\r\n", 0, HEAD_LIMIT)
    if end < 0:
        if len(buffer) >= HEAD_LIMIT:
            raise BadRequest("the head is too long")
        return None
    first, *rest = bytes(buffer[:end]).split(b"\r\n")
    del buffer[: end + 4]
    line = REQUEST_LINE.fullmatch(first)
    if line is None:
        raise BadRequest("no request line")
    fields = read_fields(rest)
    if fields.get("content-length", "0") != "0" or "transfer-encoding" in fields:
        raise BadRequest("a request with a body")
    options = {option.strip().lower() for option in fields.get("connection", "").split(",")}
    keep = "close" not in options and (line[3] == b"1" or "keep-alive" in options)
    return Request(line[1].decode(), line[2].decode().partition("?")[0], fields, keep)


def read_fields(lines: list[bytes]) -> dict[str, str]:
    """The header fields; raises `BadRequest`."""
    fields: dict[str, str] = {}
    for line in lines:
        match = FIELD.fullmatch(line)
        if match is None:
            raise BadRequest("a header field that is none")
        name, value = match[1].decode().lower(), match[2].decode("latin-1")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def send_file(request: Request, content: bytes, kind: str, etag: str) -> Response:
    """The whole of `content`, the range of it that was asked for, or that the client has it already.

    A range under an ``If-Range`` that is not this very `etag` gets the whole (RFC 9110, 13.1.5).
    """
    fields = {"Content-Type": kind, "ETag": etag, "Accept-Ranges": "bytes"}
    known = request.fields.get("if-none-match", "")
    if known == "*" or etag in (each.strip().removeprefix("W/") for each in known.split(",")):
        return Response(HTTPStatus.NOT_MODIFIED, fields=fields)
    asked = RANGE.fullmatch(request.fields.get("range", ""))
    if request.method != "GET" or asked is None or request.fields.get("if-range", etag) != etag:
        return Response(HTTPStatus.OK, content, fields)
    start, end = bounds(asked[1], asked[2], len(content))
    if start >= end:
        fields["Content-Range"] = f"bytes */{len(content)}"
        return Response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, fields=fields)
    fields["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
    return Response(HTTPStatus.PARTIAL_CONTENT, content[start:end], fields)


def bounds(first: str, last: str, length: int) -> tuple[int, int]:
    """Start and end of a range (end exclusive, as Python counts); empty if it cannot be satisfied."""
    if first:
        return int(first), min(int(last) + 1, length) if last else length
    return (max(length - int(last), 0), length) if last else (length, length)
