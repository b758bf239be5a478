"""What an agent's machine wants done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nearfar.coordinator.calling import Connect, Send
from nearfar.coordinator.parts import Row


class Give(NamedTuple):
    """Give a worker a batch: rows of WORK, which are task, mode, function, blob, buffers."""

    worker: str
    client: str
    rows: Sequence[Row]


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
