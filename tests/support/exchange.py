"""One request and its answer, for the test server's routes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

Handler = Callable[["Request", "Reply"], None]


@dataclass(frozen=True)
class Request:
    """A client's request."""

    path: str
    """With the query, as sent; the whole URL where the client takes us for a proxy."""
    fields: Mapping[str, str]
    """By name in lower case."""
    connection: int
    """The number of the connection that it came on, from 1."""
    version: str
    """Of HTTP, ``"1.1"`` or ``"2"``."""
    at: float = field(default_factory=time.monotonic)
    """When it came, on the monotonic clock."""


class Reply(Protocol):
    """Sends the answer to the client. `raw`, `reset` and `drop` exist over HTTP/1.1 only."""

    def head(self, status: int, fields: Mapping[str, str]) -> None: ...
    def data(self, data: bytes) -> None: ...
    def end(self) -> None:
        """The answer is complete."""

    def raw(self, data: bytes) -> None: ...
    def drop(self) -> None:
        """Close the connection in an orderly way."""

    def reset(self) -> None:
        """Break the connection off, so that the client's reads fail."""

    def stall(self) -> None:
        """Send nothing more until the client disconnects or the server closes."""
