"""What an agent's machine wants done."""

from __future__ import annotations

from typing import NamedTuple

from nearfar.coordinator.parts import Row
from nearfar.coordinator.wire import Envelope


class Connect(NamedTuple):
    """Close the socket, and open one under this session's name."""

    session: str


class Send(NamedTuple):
    """Send this."""

    envelope: Envelope


class Give(NamedTuple):
    """Give a worker a batch: rows of function, mode, blob, buffers."""

    worker: str
    client: str
    rows: list[Row]


class Recall(NamedTuple):
    """Take back what a worker has not read, and say how much (`returned`)."""

    worker: str


class Kill(NamedTuple):
    """Kill a worker."""

    worker: str


class Retire(NamedTuple):
    """Let a worker end, which has nothing to do."""

    worker: str


Action = Connect | Send | Give | Recall | Kill | Retire
