"""Queues that processes inherit: `multiprocessing.Queue`, the yardstick, and nearfar's near queue, its thin
skin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nearfar.contrast.transports.base import FORK, Link
from nearfar.contrast.transports.ends import PlainEnd, QueueEnd
from nearfar.queues.near import NearQueue


class InheritedLink(Link):
    """No process holds the items: they are in a pipe, and in the memory of the producer."""

    def __init__(self, queue: Any, end: type[QueueEnd]) -> None:
        self._queue = queue
        self._end = end

    def producer(self) -> QueueEnd:
        return self._end(self._queue)

    def consumer(self) -> QueueEnd:
        return self._end(self._queue)

    def size(self) -> int | None:
        return int(self._queue.qsize())


@contextlib.contextmanager
def open_standard(folder: Path, bound: int) -> Iterator[Link]:
    with contextlib.closing(FORK.Queue(bound)) as queue:
        yield InheritedLink(queue, PlainEnd)


@contextlib.contextmanager
def open_near(folder: Path, bound: int) -> Iterator[Link]:
    with contextlib.closing(NearQueue(bound, ctx=FORK)) as queue:
        yield InheritedLink(queue, QueueEnd)
