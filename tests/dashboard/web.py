"""Requests to a dashboard, byte by byte where that matters."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from nearfar.dashboard.board import Board
from nearfar.dashboard.server import Dashboard


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


@contextmanager
def served(
    where: str | bool = "127.0.0.1:*", token: str | None = None, **found: Any
) -> Iterator[tuple[Board, Dashboard]]:
    """A dashboard of a program with one snapshot."""
    board = Board("pool", "tcp://127.0.0.1:1")
    board.publish({"counts": {"done": 3}, "ready": True} | found, time.monotonic())  # type: ignore[arg-type]
    made = Dashboard(board, where, token)
    try:
        yield board, made
    finally:
        made.close()


def place(url: str) -> tuple[str, int]:
    named = urlsplit(url)
    assert named.hostname is not None and named.port is not None
    return named.hostname, named.port


def ask(url: str, path: str, method: str = "GET", **headers: str) -> Answer:
    """The answer to a request; header fields with ``_`` for ``-``."""
    connection = http.client.HTTPConnection(*place(url), timeout=20)
    try:
        connection.request(
            method, path, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def status_of(url: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(url, "/api/status").body)
    return found


def send(url: str, request: bytes) -> socket.socket:
    """A connection that has sent these bytes."""
    connection = socket.create_connection(place(url), timeout=20)
    connection.sendall(request)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """What comes until the end."""
    said = b""
    try:
        while more := connection.recv(65536):
            said += more
    except ConnectionError:
        pass
    return said
