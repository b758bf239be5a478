"""`multiprocessing.Queue`: the yardstick."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nearfar.contrast.transports.base import FORK, Consumer, Link, Producer


class StandardEnd(Producer, Consumer):
    """Batches travel as what a careful user of it would put: one item, which is a list."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def put(self, item: Any) -> None:
        self._queue.put(item)

    def put_many(self, items: list[Any]) -> None:
        self._queue.put(items)

    def get(self) -> Any:
        return self._queue.get()

    def get_many(self, most: int) -> list[Any]:
        items: list[Any] = self._queue.get()
        return items

    def finish(self) -> None:
        self._queue.close()
        self._queue.join_thread()


class StandardLink(Link):
    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def producer(self) -> Producer:
        return StandardEnd(self._queue)

    def consumer(self) -> Consumer:
        return StandardEnd(self._queue)

    def size(self) -> int | None:
        return int(self._queue.qsize())


@contextlib.contextmanager
def open_standard(folder: Path, bound: int) -> Iterator[Link]:
    queue = FORK.Queue(bound)
    try:
        yield StandardLink(queue)
    finally:
        queue.close()
