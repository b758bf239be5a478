"""An end of any of nearfar's queues."""

from __future__ import annotations

from typing import Any

from nearfar.contrast.transports.base import Consumer, Producer
from nearfar.queues.base import BaseQueue


class OurEnd(Producer, Consumer):
    def __init__(self, queue: BaseQueue) -> None:
        self._queue = queue

    def put(self, item: Any) -> None:
        self._queue.put(item)

    def put_many(self, items: list[Any]) -> None:
        self._queue.put_many(items)

    def get(self) -> Any:
        return self._queue.get()

    def get_many(self, most: int) -> list[Any]:
        return self._queue.get_many(most)

    def finish(self) -> None:
        self._queue.close()
        self._queue.join_thread()
