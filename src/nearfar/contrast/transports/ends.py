"""The ends of whatever has the methods of a queue."""

from __future__ import annotations

from typing import Any

from nearfar.contrast.transports.base import Consumer, Producer


class QueueEnd(Producer, Consumer):
    """Of nearfar's queues, which have batches of their own."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def put(self, item: Any) -> None:
        self._queue.put(item)

    def put_many(self, items: list[Any]) -> None:
        self._queue.put_many(items)

    def get(self) -> Any:
        return self._queue.get()

    def get_many(self, most: int) -> list[Any]:
        items: list[Any] = self._queue.get_many(most)
        return items

    def finish(self) -> None:
        self._queue.close()
        self._queue.join_thread()


class PlainEnd(QueueEnd):
    """Of a queue without: a batch is what a careful user would put, one item which is a list."""

    def put_many(self, items: list[Any]) -> None:
        self._queue.put(items)

    def get_many(self, most: int) -> list[Any]:
        items: list[Any] = self._queue.get()
        return items
