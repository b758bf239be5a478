"""nearfar's near queue: `multiprocessing.Queue` with a thin skin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from nearfar.contrast.transports.base import FORK, Link
from nearfar.contrast.transports.ours import OurEnd
from nearfar.queues.near import NearQueue


class NearLink(Link):
    def __init__(self, queue: NearQueue) -> None:
        self._queue = queue

    def producer(self) -> OurEnd:
        return OurEnd(self._queue)

    def consumer(self) -> OurEnd:
        return OurEnd(self._queue)

    def size(self) -> int | None:
        return self._queue.qsize()


@contextlib.contextmanager
def open_near(folder: Path, bound: int) -> Iterator[Link]:
    queue = NearQueue(bound, ctx=FORK)
    try:
        yield NearLink(queue)
    finally:
        queue.close()
