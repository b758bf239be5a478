"""Runs: consecutive items of one producer, moved about as one."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import Self

from nearfar.errors import ProtocolError
from nearfar.net import codec


@dataclass(slots=True)
class Run:
    """Items `first` to ``first + count - 1`` of a producer, end to end in `body`."""

    producer: str
    first: int
    count: int
    body: bytes
    order: int
    """The place of the first item among all items of the queue."""
    to: str | None = None
    """A tag: only a consumer that bears it may have these."""
    attempt: int = 1
    strikes: int = 0
    """Consumers that were lost, or gave up, with an item of this run in hand."""
    history: tuple[str, ...] = ()
    """What became of each earlier attempt."""

    def cut(self, count: int) -> tuple[Self, Self]:
        """The first `count` items and the others.

        A body that holds fewer items than its producer said leaves nothing for the last: no consumer can
        read those, so that they end among the dead letters like other unreadable ones.
        """
        try:
            at = codec.cut(self.body, count)
        except ProtocolError:
            at = len(self.body)
        head = replace(self, count=count, body=self.body[:at])
        tail = replace(
            self,
            first=self.first + count,
            count=self.count - count,
            body=self.body[at:],
            order=self.order + count,
        )
        return head, tail


class Shelf:
    """Runs that wait, the oldest first."""

    __slots__ = ("_heap", "bytes", "items")

    def __init__(self) -> None:
        self._heap: list[tuple[int, Run]] = []
        self.items = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._heap)

    def add(self, run: Run) -> None:
        heapq.heappush(self._heap, (run.order, run))
        self.items += run.count
        self.bytes += len(run.body)

    @property
    def oldest(self) -> int:
        """The order of the next item; the shelf must not be empty."""
        return self._heap[0][0]

    def take(self, items: int, size: int) -> Run:
        """Up to `items` items of the oldest run, at least one.

        `size`, in bytes, cuts a run that is larger by the average of its items: what comes may be larger.
        """
        run = heapq.heappop(self._heap)[1]
        self.items -= run.count
        self.bytes -= len(run.body)
        if run.count > 1 and (run.count > items or len(run.body) > size):
            average = len(run.body) // run.count or 1
            run, rest = run.cut(max(1, min(items, size // average, run.count - 1)))
            self.add(rest)
        return run

    def clear(self) -> list[Run]:
        """Take everything."""
        runs = [run for _, run in sorted(self._heap)]
        self._heap.clear()
        self.items = self.bytes = 0
        return runs
